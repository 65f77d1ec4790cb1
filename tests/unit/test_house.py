import ast
import graphlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest

from helpers import lessons, runtime

ROOT = runtime.project_root()
# what a make that runs the tests would tell the make that a test calls
TOLD = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")
CALM = {name: value for name, value in os.environ.items() if name not in TOLD}


def pins() -> dict[str, str]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_every_requirement_is_pinned_exactly():
    lines = [
        line
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if line and line[0] != "#"
    ]
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", line) for line in lines)
    assert pins()["torch"] == "2.13.0"


def test_conda_takes_its_pins_from_requirements_txt():
    text = (ROOT / "environment.yml").read_text()
    assert "- -r requirements.txt" in text
    assert "==" not in text.replace("python=3.11", "")


def test_what_is_installed_is_what_is_pinned():
    from importlib.metadata import version

    assert {name: version(name).split("+")[0] for name in pins()} == pins()


def test_the_python_of_conda_is_one_that_the_project_supports():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.14"
    assert "python=3.11" in (ROOT / "environment.yml").read_text()


@pytest.mark.skipif(not shutil.which("make"), reason="no make on this machine")
def test_make_help_lists_every_public_target():
    public = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    said = subprocess.run(
        ["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, env=CALM
    ).stdout
    listed = dict(line.split(maxsplit=2)[1:] for line in said.splitlines())
    assert set(listed) == set(public) and {"lab", "run", "test", "check"} <= set(public)
    assert all(listed.values())


@pytest.mark.skipif(not shutil.which("make"), reason="no make on this machine")
def test_a_set_up_without_network_says_what_to_do(tmp_path):
    """pip meets an index that nobody answers at; this Python makes the empty environment."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.txt").write_text("no-such-package-of-ours==1.0\n")
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9", "PIP_RETRIES": "0", "PIP_NO_INDEX": "0"}
    done = subprocess.run(
        ["make", "setup", f"PYTHON={sys.executable}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=CALM | nowhere,
    )
    assert done.returncode and "connect to the network once" in done.stdout + done.stderr
    assert not (tmp_path / ".venv" / ".installed").exists()


def notebook(*cells) -> dict:
    return {"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def code(source="1", count=1, outputs=()) -> dict:
    return {
        "cell_type": "code",
        "metadata": {},
        "source": source,
        "execution_count": count,
        "outputs": list(outputs),
    }


TITLE = {"cell_type": "markdown", "metadata": {}, "source": "# 00 · A lesson"}


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ([TITLE, code(count=2)], "execution counts"),
        ([code()], "0 headings"),
        ([TITLE, code("x\n" * 26)], "26 lines"),
        ([TITLE, code("x" * 120)], "longer than"),
        ([TITLE, code(outputs=[{"output_type": "error", "ename": "E"}])], "an error"),
        (
            [TITLE, code(outputs=[{"output_type": "stream", "name": "stderr", "text": "w"}])],
            "stderr",
        ),
        (
            [
                TITLE,
                code(outputs=[{"output_type": "stream", "name": "stdout", "text": "in /home/me"}]),
            ],
            "absolute path",
        ),
    ],
)
def test_hygiene_finds(cells, says, tmp_path):
    path = tmp_path / "00_a.ipynb"
    path.write_text(json.dumps(notebook(*cells)))
    assert any(says in fault for fault in lessons.faults_of(path))


def test_a_clean_notebook_has_no_fault(tmp_path):
    path = tmp_path / "00_a.ipynb"
    path.write_text(json.dumps(notebook(TITLE, code())))
    assert lessons.faults_of(path) == []


def test_a_run_keeps_the_outputs_and_notes_seconds_and_peak_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKSHOP_RUNS", str(tmp_path / "runs"))
    path = tmp_path / "00_a.ipynb"
    path.write_text(json.dumps(notebook(TITLE, code("print(6 * 7)", None))))
    seconds = lessons.run([path])
    assert "".join(json.loads(path.read_text())["cells"][1]["outputs"][0]["text"]) == "42\n"
    noted = json.loads((tmp_path / "runs" / "lessons.json").read_text())["00_a"]
    assert noted["seconds"] == round(seconds["00_a"], 1) and len(noted["cells"]) == 1
    assert not sys.platform.startswith("linux") or 0.01 < noted["peak_gb"] < 4


def test_tidy_drops_progress_bars_and_keeps_results():
    bar = {"output_type": "display_data", "data": {lessons._WIDGET: {}, "text/plain": "bar"}}
    warning = {"output_type": "stream", "name": "stderr", "text": "w"}
    result = {"output_type": "stream", "name": "stdout", "text": "42\n"}
    tidied = lessons.tidy(notebook(TITLE, code(outputs=[bar, warning, result])))
    assert tidied["cells"][1]["outputs"] == [result]


def test_a_link_to_nowhere_is_found(tmp_path):
    path = tmp_path / "a.md"
    path.write_text("[here](a.md) and [there](missing.md) and [web](https://example.org)")
    assert lessons.broken_links(path) == ["a.md: link to missing.md leads nowhere"]


def test_helpers_import_in_one_direction():
    """No module needs one that needs it, at import; a package's ``__init__`` and its modules count as one."""
    known = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts[:2])
        for path in (ROOT / "helpers").rglob("*.py")
    }
    needs: dict[str, set[str]] = {name: set() for name in known}
    for path in (ROOT / "helpers").rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts[:2])
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("helpers"):
                whole = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
                needs[name] |= {".".join(module.split(".")[:2]) for module in whole} & known - {
                    name
                }
    order = list(graphlib.TopologicalSorter(needs).static_order())
    assert order.index("helpers.data") < order.index("helpers.evaluation")
