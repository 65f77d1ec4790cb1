"""The scoreboard: one JSON object a line in ``runs/scoreboard.jsonl``, and the table made of it.

Introduced in lesson 00, section 0.7. The latest row of a method, model and seed counts.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from helpers import runtime
from helpers.data import data_sha256
from helpers.evaluation import SCORES, Score, summary
from helpers.statistics import percent, wilson

PRICES = (
    *("prompt_tokens", "new_tokens", "latency_p50_s", "latency_p95_s", "train_seconds"),
    *("trainable_parameters", "artefact_mb", "peak_memory_gb"),
)
ORDER = (
    "keyword-rule",
    "minilm-and-paste",
    "retrieve-and-quote",
    "retrieve-and-paste",
    "zero-shot",
    "few-shot",
    "few-shot-constrained",
    "rag-few-shot",
    "sft",
    "sft-rag",
)


def scoreboard_path() -> Path:
    return runtime.runs_dir() / "scoreboard.jsonl"


def make_row(
    method: str,
    scores: list[Score],
    profile: runtime.Profile,
    seed: int = 0,
    adapter: str = "none",
    model: str | None = None,
    intervals: dict[str, tuple[float, float]] | None = None,
    **prices: float,
) -> dict:
    """One row: the scores with their intervals, the prices given (see PRICES), and what it was measured on.

    ``adapter`` is "none", "trained here", "stopped early" or "ready-made"; ``intervals`` holds the 95 % interval of those prices that
    have one, ``{name: (low, high)}``. Raises ValueError for a price with an unknown name.
    """
    intervals = intervals or {}
    if unknown := {*prices, *intervals} - set(PRICES):
        raise ValueError(f"unknown price {sorted(unknown)}; one of {', '.join(PRICES)}")
    return {
        "method": method,
        "model": model or profile.model,
        "profile": profile.name,
        "adapter": adapter,
        "n": len(scores),
        **summary(scores),
        **{name: prices.get(name) for name in PRICES},
        "intervals": {name: list(ends) for name, ends in intervals.items()},
        "data_sha256": data_sha256(),
        "seed": seed,
        "versions": runtime.versions(),
        "machine": str(runtime.detect()),
        "share": runtime.share(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def append_line(path: Path, line: str) -> None:
    """Append one line under a file lock, so that two notebooks writing at once lose none."""
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        broken = path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n")
        with open(path, "a", encoding="utf-8", newline="\n") as file:
            file.write(("\n" if broken else "") + line + "\n")


def record(row: dict) -> dict:
    """Write a row to the scoreboard, and return it."""
    append_line(scoreboard_path(), json.dumps(row, ensure_ascii=False))
    return row


def read() -> list[dict]:
    """The rows that count: the latest of each method, model and seed, in the order of the road.

    A line that cannot be read (a run cut off while writing) is skipped and said so. Rows of another data set or of a dry
    run do not mix with the others: they are left out, and said so.
    """
    path = scoreboard_path()
    if not path.exists():
        return []
    latest, skipped, stale, current = {}, 0, 0, data_sha256()
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
            key = (row["method"], row["model"], row["seed"])
        except (ValueError, KeyError, TypeError):
            skipped += bool(line.strip())
            continue
        if row.get("data_sha256") != current or row.get("share", 1.0) != runtime.share():
            stale += 1
            continue
        latest[key] = row
    if skipped:
        print(f"{path.name}: {skipped} unreadable lines were skipped")
    if stale:
        print(f"{path.name}: {stale} rows of other data or of a dry run are not shown")
    place = {name: i for i, name in enumerate(ORDER)}
    return sorted(
        latest.values(),
        key=lambda row: (place.get(row["method"], len(ORDER)), row["model"], row["seed"]),
    )


def with_interval(row: dict, price: str, digits: int = 1) -> str:
    """A price as "1,546 (1,540 to 1,551)", its 95 % interval in brackets; without them where none was measured, "" without a price."""
    if row[price] is None:
        return ""
    ends = (row.get("intervals") or {}).get(price)
    value, *ends = (f"{x:,.{digits}f}" for x in (row[price], *(ends or ())))
    return f"{value} ({ends[0]} to {ends[1]})" if ends else value


def table(rows: list[dict] | None = None):
    """The scoreboard as a pandas DataFrame: resolved with its interval, each part in percent, the prices beside."""
    import pandas as pd

    rows = read() if rows is None else rows
    lines = []
    for row in rows:
        r = row["resolved"]
        line = {"method": row["method"], "n": row["n"], "resolved %": f"{r['value']:.1%}"[:-1]}
        line["95 % interval"] = f"{100 * r['low']:.0f} to {100 * r['high']:.0f}"
        line |= {
            f"{name} %": round(100 * row[name]["value"], 1) for name in SCORES if name != "resolved"
        }
        line |= {
            "prompt tokens": row["prompt_tokens"],
            "new tokens": row["new_tokens"],
            "p50 s": row["latency_p50_s"],
            "p95 s": row["latency_p95_s"],
            "train s": row["train_seconds"],
            "trained M": row["trainable_parameters"] and row["trainable_parameters"] / 1e6,
            "artefact MB": row["artefact_mb"],
            "peak GB": row["peak_memory_gb"],
            "adapter": row["adapter"],
            "seed": row["seed"],
        }
        lines.append(line)
    if not lines:
        return pd.DataFrame(columns=["method", "n", "resolved %"])
    frame = pd.DataFrame(lines).set_index("method")
    numbers = frame.select_dtypes("number").columns
    frame[numbers] = frame[numbers].astype(object).where(frame[numbers].notna(), None)
    return frame.map(lambda v: "" if v is None else (f"{v:.4g}" if isinstance(v, float) else v))


def short_table(rows: list[dict]):
    """The scoreboard for a page without a notebook: a pandas DataFrame of texts, each figure with its 95 % interval in brackets if it has one."""
    import pandas as pd

    lines = []
    for row in rows:
        line = {"method": row["method"], "n": row["n"]}
        for name in ("resolved", "format", "triage", "policy", "facts"):
            line[f"{name} %"] = percent(row[name], 1 if name == "resolved" else 0, unit="")
        line["prompt tokens"] = with_interval(row, "prompt_tokens", 0)
        line["p50 s"] = with_interval(row, "latency_p50_s", 1 if row["prompt_tokens"] else 4)
        line["train s"] = with_interval(row, "train_seconds", 0)
        line["artefact MB"] = with_interval(row, "artefact_mb", 1)
        line["adapter"] = "" if row["adapter"] == "none" else row["adapter"]
        lines.append(line)
    return pd.DataFrame(lines).set_index("method")


def seeds(rows: list[dict] | None = None, score: str = "resolved"):
    """What another training run moves, apart from what the choice of tickets may move: a pandas DataFrame, a line a trained method.

    ``mean``, ``least`` and ``most`` over the runs and their sample standard deviation ``runs' sd``, then Wilson's 95 % interval at
    the mean for these tickets (as many tickets as there are, not times the runs); all in percent. A method with one run says
    "one run": its spread is unknown, not zero. Lesson 05, section 5.2.
    """
    import numpy as np
    import pandas as pd

    groups: dict[tuple, list[dict]] = {}
    for row in read() if rows is None else rows:
        if row["adapter"] != "none":
            groups.setdefault((row["method"], row["model"], row["n"]), []).append(row)
    lines = []
    for (method, model, n), found in groups.items():
        values = np.array([row[score]["value"] for row in found])
        low, high = wilson(round(values.mean() * n), n)
        line = {"method": method, "model": model, "runs": len(found), "mean": 100 * values.mean()}
        line |= {"least": 100 * values.min(), "most": 100 * values.max()}
        line["runs' sd"] = round(100 * values.std(ddof=1), 2) if len(found) > 1 else "one run"
        lines.append(line | {"n": n, "tickets low": 100 * low, "tickets high": 100 * high})
    columns = ["method", "model", "runs", "mean", "least", "most", "runs' sd", "n"]
    columns += ["tickets low", "tickets high"]
    return pd.DataFrame(lines, columns=columns).set_index("method")
