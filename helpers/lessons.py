"""Run the lessons in order without a browser, and hold their hygiene: ``python -m helpers.lessons run | check``.

``run`` executes each notebook in a fresh kernel and writes its outputs back (to a temporary name, then renamed); ``check`` reads the
committed notebooks and the local links of the Markdown files.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path

from helpers import runtime

MAX_LINES, MAX_WIDTH, MAX_BYTES = 25, 100, 1_000_000
_WIDGET = "application/vnd.jupyter.widget-view+json"


def notebooks() -> list[Path]:
    """The lessons, in order."""
    return sorted((runtime.project_root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def tidy(notebook: dict) -> dict:
    """Leave what a reader wants: no stderr, no progress bars, no widget state, no timings of cells, no local paths."""
    notebook["metadata"].pop("widgets", None)
    notebook["metadata"]["kernelspec"] = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    notebook["metadata"]["language_info"] = {"name": "python"}
    for cell in notebook["cells"]:
        cell["metadata"].pop("execution", None)
        if cell["cell_type"] != "code":
            continue
        kept = []
        for output in cell["outputs"]:
            if output.get("name") == "stderr":
                continue
            # a widget leaves its static picture, if it brought one; a progress bar leaves nothing
            if output.get("data", {}).pop(_WIDGET, None) is not None:
                if "text/html" not in output["data"]:
                    continue
            if output["output_type"] == "stream":
                output["text"] = "".join(output["text"]).replace(str(runtime.project_root()), ".")
                if not output["text"].strip():
                    continue
            kept.append(output)
        cell["outputs"] = kept
    return notebook


def spoken(seconds: float) -> str:
    """Seconds as a reader wants them: "under a minute", "about 4 minutes"."""
    minutes = max(1, round(seconds / 60))
    return "under a minute" if seconds < 50 else f"about {minutes} minute{'s' * (minutes > 1)}"


def state_time(notebook: dict, seconds: float) -> None:
    """Put the measured time into the header's "... to run"."""
    head = notebook["cells"][0]
    pattern = r"(?:\{\{minutes\}\}|under a minute|about \d+ minutes?)( to run)"
    head["source"] = re.sub(pattern, rf"{spoken(seconds)}\1", "".join(head["source"]), count=1)


def fill_readme(minutes: dict[str, str], board: str) -> None:
    """Put the lessons' minutes and the scoreboard of a full run between the README's markers."""
    path = runtime.project_root() / "README.md"
    text = path.read_text(encoding="utf-8")
    for name, time_ in minutes.items():
        text = re.sub(
            rf"(\(notebooks/{name}\.ipynb\) \|[^|]*\|)[^|\n]*\|", rf"\g<1> {time_} |", text
        )
    marked = r"(<!-- scoreboard -->\n).*?(<!-- end -->)"
    text = re.sub(marked, lambda m: m[1] + board + "\n" + m[2], text, flags=re.S)
    part = path.with_suffix(".md.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def told_seeds(table) -> str:
    """A sentence for each method of ``scoreboard.seeds``: how far its training runs lie apart, or that there is one."""
    return " ".join(
        f"`{name}` in {row['runs']:.0f} training runs: resolved {row['mean']:.1f} % on average, from "
        f"{row['least']:.1f} to {row['most']:.1f} (lesson 05, section 5.2)."
        if row["runs"] > 1
        else f"`{name}` is one training run; how far another would lie from it is not known."
        for name, row in table.iterrows()
    )


def markdown(table) -> str:
    """A DataFrame as a Markdown table, without another dependency."""
    head = [table.index.name or "", *table.columns]
    rows = [
        [str(name), *map(str, row)] for name, row in zip(table.index, table.to_numpy().tolist())
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows])


def peak_gb(pid: int | None) -> float:
    """The largest resident set of a process so far, in GB (10^9 bytes), as Linux tells it; 0.0 elsewhere."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    found = re.search(r"VmHWM:\s+(\d+)", status)
    return int(found[1]) * 1024 / 1e9 if found else 0.0


def note_times(lesson: str, seconds: float, cells: list[float], peak: float = 0.0) -> None:
    """Keep a lesson's seconds, in all and cell by cell, and its kernel's peak memory (GB) in ``runs/lessons.json``."""
    path = runtime.runs_dir() / "lessons.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known[lesson] = {"seconds": round(seconds, 1), "cells": [round(cell, 1) for cell in cells]}
    known[lesson]["peak_gb"] = round(peak, 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".json.part")
    part.write_text(json.dumps(known, indent=1), encoding="utf-8")
    os.replace(part, path)


def run(paths: list[Path]) -> dict[str, float]:
    """Execute the notebooks, refresh their outputs, and return each one's seconds; a failing cell stops with its lesson's name.

    Seconds and peak memory go to ``runs/lessons.json``.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    seconds = {}
    for number, path in enumerate(paths, 1):
        started = time.perf_counter()
        notebook = nbformat.read(path, as_version=4)
        code = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
        ends, peak = [started], [0.0]

        def say(cell, cell_index, *, path=path, code=code, ends=ends, number=number) -> None:
            if cell_index in code:
                ends.append(time.perf_counter())
                done, so_far = code.index(cell_index) + 1, ends[-1] - ends[0]
                end = "\r" if sys.stdout.isatty() else "\n" if done == len(code) else ""
                text = f"[{number}/{len(paths)}] {path.stem}: cell {done} of {len(code)}, {so_far:.0f} s"
                if sys.stdout.isatty() or end:
                    print(text, end=end, flush=True)

        client = NotebookClient(
            notebook,
            timeout=7200,  # seconds a cell; the longest training took 2,848 on the slowest CPU we had
            kernel_name="python3",
            extra_arguments=["--log-level=40"],
            resources={"metadata": {"path": str(path.parent)}},
        )

        def executed(cell, cell_index, execute_reply, *, client=client, say=say, peak=peak) -> None:
            peak[0] = max(peak[0], peak_gb(client.km.provisioner.pid))
            say(cell, cell_index)

        client.on_cell_executed = executed
        try:
            client.execute()
        except CellExecutionError as error:
            raise SystemExit(f"\n{path.name} stopped:\n{error}") from None
        seconds[path.stem] = time.perf_counter() - started
        note_times(path.stem, seconds[path.stem], [b - a for a, b in zip(ends, ends[1:])], peak[0])
        if not runtime.fast():
            state_time(notebook, seconds[path.stem])
        part = path.with_suffix(".ipynb.part")
        part.write_text(
            json.dumps(tidy(notebook), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        os.replace(part, path)
        if sys.stdout.isatty():
            print()
    return seconds


def faults_of(path: Path) -> list[str]:
    """What is wrong with a committed notebook, in sentences; an empty list if nothing is."""
    if path.stat().st_size > MAX_BYTES:
        return [f"{path.name}: {path.stat().st_size >> 10} kB; at most {MAX_BYTES >> 10}"]
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    faults = []
    counts = [cell["execution_count"] for cell in code]
    if counts != list(range(1, len(code) + 1)):
        faults.append(f"{path.name}: execution counts are not 1..{len(code)}; run 'make run'")
    if "widgets" in notebook["metadata"]:
        faults.append(f"{path.name}: widget state is saved")
    headings = sum(
        bool(re.match(r"# ", "".join(cell["source"])))
        for cell in notebook["cells"]
        if cell["cell_type"] == "markdown"
    )
    if headings != 1:
        faults.append(f"{path.name}: {headings} headings of the first level; expected one")
    for number, cell in enumerate(code, 1):
        source = "".join(cell["source"]).splitlines()
        if len(source) > MAX_LINES:
            faults.append(f"{path.name} cell {number}: {len(source)} lines; at most {MAX_LINES}")
        if any(len(line) > MAX_WIDTH for line in source):
            faults.append(f"{path.name} cell {number}: a line is longer than {MAX_WIDTH} columns")
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                faults.append(f"{path.name} cell {number}: an error is saved")
            if output.get("name") == "stderr" or _WIDGET in output.get("data", {}):
                faults.append(f"{path.name} cell {number}: stderr or a widget is saved")
            text = "".join(output.get("text", "")) + "".join(
                output.get("data", {}).get("text/plain", "")
            )
            if re.search(r"(?<![\w.])/(?:root|home|tmp|work|Users)/\w", text):
                faults.append(f"{path.name} cell {number}: an absolute path is printed")
    return faults


def broken_links(path: Path) -> list[str]:
    """Local links of a Markdown file or notebook that lead nowhere."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join(
            "".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"
        )
    targets = re.findall(r"\]\(([^)#\s]+)", re.sub(r"```.*?```", "", text, flags=re.S))
    return [
        f"{path.name}: link to {target} leads nowhere"
        for target in targets
        if not target.startswith(("http:", "https:", "mailto:"))
        and not (path.parent / target).exists()
    ]


def misspelt(path: Path) -> list[str]:
    """Words of a lesson's prose that codespell would write otherwise; tickets in outputs are misspelt on purpose."""
    import subprocess

    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    prose = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    found = subprocess.run(
        [sys.executable, "-m", "codespell_lib", "-"], input=prose, capture_output=True, text=True
    ).stdout
    return [f"{path.name}: {line.strip()}" for line in found.splitlines() if "==>" in line]


def check() -> list[str]:
    """Every fault of every lesson, and every broken local link."""
    root = runtime.project_root()
    paths = notebooks()
    prose = [
        p
        for p in root.rglob("*.md")
        if not any(part.startswith(".") for part in p.relative_to(root).parts)
    ]
    faults = [fault for path in paths for fault in faults_of(path) + misspelt(path)]
    return faults + [fault for path in [*paths, *prose] for fault in broken_links(path)]


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["check"]:
        faults = check()
        print(
            "\n".join(faults)
            if faults
            else f"{len(notebooks())} lessons and their links are in order"
        )
        return bool(faults)
    if arguments[:1] == ["run"]:
        wanted = arguments[1:]
        paths = [
            p for p in notebooks() if not wanted or any(p.name.startswith(name) for name in wanted)
        ]
        if not paths:
            print(f"no lesson starts with {' or '.join(wanted)}")
            return 1
        seconds = run(paths)
        kept = json.loads((runtime.runs_dir() / "lessons.json").read_text(encoding="utf-8"))
        peak = max(kept[name]["peak_gb"] for name in seconds)
        if not wanted:
            note_times("total", sum(seconds.values()), [], peak)
        from helpers import scoreboard

        rows = scoreboard.read()
        table = scoreboard.table(rows)
        print(
            f"{len(paths)} lessons in {sum(seconds.values()) / 60:.1f} minutes"
            f"{f', at most {peak:.1f} GB a kernel' * (peak > 0)}\n\n{table.T.to_string()}"
        )
        if not runtime.fast() and set(scoreboard.ORDER) <= set(table.index):
            from helpers import labs

            profile = runtime.choose_profile(runtime.detect())
            seeds = scoreboard.seeds(rows + labs.other_seeds(profile))
            board = f"{markdown(scoreboard.short_table(rows))}\n\n{told_seeds(seeds)}".rstrip()
            fill_readme({name: spoken(s) for name, s in seconds.items()}, board)
        return 0
    if arguments == ["share"]:
        print(runtime.share_for_tests())
        return 0
    print("usage: python -m helpers.lessons run [NN ...] | check | share")
    return 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
