import json
import re
import subprocess
import sys
from importlib import metadata

import pytest

from helpers import colab, lessons, runtime

ROOT = runtime.project_root()
# for the terminal and the maintainers; no lesson imports them
TOOLS = {"jupyterlab", "nbconvert", "nbclient", "nbformat", "nbval", "ruff", "codespell"}


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def lesson(first="# old\nimport sys\n\nsys.path.insert(0, '..')", head="# 00 · A\n\nText.") -> dict:
    code = {"cell_type": "code", "execution_count": 1, "id": "b", "metadata": {}}
    output = {"output_type": "stream", "name": "stdout", "text": ["4\n", "2 €\n"]}
    return {
        "cells": [
            {"cell_type": "markdown", "id": "a", "metadata": {"tags": ["x"]}, "source": head},
            code | {"outputs": [], "source": first},
            code | {"id": "c", "execution_count": 2, "outputs": [output], "source": "print(42)"},
        ],
        "metadata": {"kernelspec": {"name": "python3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of its own, with one lesson; call it to put another notebook there."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nversion = "2.3"\n[project.urls]\nRepository = "https://github.com/me/fork/"\n'
    )
    monkeypatch.setattr(runtime, "project_root", lambda: tmp_path)
    path = tmp_path / "notebooks" / "00_a.ipynb"

    def put(notebook: dict, indent=1):
        path.write_text(json.dumps(notebook, indent=indent, ensure_ascii=False) + "\n")
        return path

    put(lesson())
    return put


def test_every_lesson_has_the_badge_and_the_cell_of_pyproject():
    assert colab.faults() == []


def test_the_address_stands_in_pyproject_alone():
    repository, _ = colab.address()
    owner_and_name = repository.removeprefix("https://github.com/")
    ends = {".py", ".md", ".toml", ".yml", ".txt"}
    tops = [p for p in ROOT.iterdir() if p.name[0] != "." and p.name not in ("runs", "build")]
    files = [p for top in tops for p in (top, *top.rglob("*")) if p.suffix in ends]
    files += [ROOT / "Makefile", ROOT / ".ci" / "run"]
    holding = [p.name for p in files if owner_and_name in p.read_text(encoding="utf-8")]
    assert holding == ["pyproject.toml"]


def test_what_colab_installs_is_pinned_as_in_requirements():
    ours = pins("requirements.txt")
    for name, version in pins("requirements-colab.txt").items():
        assert ours[name] == version


def test_every_requirement_is_installed_in_colab_or_there_already_or_a_tool():
    there = set(pins("tests/colab_image.txt"))
    installs = set(pins("requirements-colab.txt"))
    assert set(pins("requirements.txt")) - there - installs == TOOLS
    assert not installs & set(colab.KEEP) and set(colab.KEEP) <= there


def test_a_lesson_gets_badge_and_cell_and_keeps_everything_else(project):
    before = (path := project(lesson())).read_text()
    assert colab.write() == ["00_a.ipynb"]
    new = json.loads(path.read_text())
    assert new["cells"][0]["source"] == (
        f"# 00 · A\n\n[![Open in Colab]({colab.BADGE})](https://colab.research.google.com/"
        "github/me/fork/blob/v2.3/notebooks/00_a.ipynb)\n\nText."
    )
    assert '"https://github.com/me/fork"\nTAG = "v2.3"\n' in new["cells"][1]["source"]
    lines = list(zip(before.splitlines(), path.read_text().splitlines(), strict=True))
    changed = [old for old, new in lines if old != new]
    assert len(changed) == 2 and all(line.startswith('   "source": "# ') for line in changed)


def test_writing_twice_changes_nothing_more(project):
    project(lesson())
    colab.write()
    assert colab.write() == [] and colab.faults() == []


def test_a_source_kept_as_lines_stays_lines(project):
    notebook = lesson()
    for cell in notebook["cells"]:
        cell["source"] = cell["source"].splitlines(keepends=True)
    path = project(notebook)
    colab.write()
    sources = [cell["source"] for cell in json.loads(path.read_text())["cells"]]
    assert all(isinstance(source, list) for source in sources)
    assert "".join(sources[1]) == colab.bootstrap_cell()


def test_a_new_address_replaces_the_old_badge(project):
    path = project(lesson())
    colab.write()
    toml = runtime.project_root() / "pyproject.toml"
    toml.write_text(toml.read_text().replace("me/fork", "you/other"))
    assert colab.faults() == [
        f"00_a.ipynb: badge or bootstrap cell is out of date; {colab.COMMAND}"
    ]
    colab.write()
    assert "me/fork" not in path.read_text() and path.read_text().count("Open in Colab") == 1


@pytest.mark.parametrize(
    ("notebook", "indent", "says"),
    [
        (lesson(), 2, "not laid out"),
        (lesson(first="import torch"), 1, "not a bootstrap cell"),
        (lesson(head="No heading.\n\nText."), 1, "does not begin"),
    ],
)
def test_a_lesson_that_cannot_be_written_is_named_and_left_alone(project, notebook, indent, says):
    path = project(notebook, indent)
    text = path.read_text()
    with pytest.raises(ValueError, match=f"00_a.ipynb: .*{says}"):
        colab.write()
    assert path.read_text() == text
    assert says in colab.faults()[0]


def test_the_cell_passes_the_linter_and_fits_a_screen(tmp_path):
    path = tmp_path / "cell.py"
    path.write_text(colab.bootstrap_cell() + "\n")
    options = ["--ignore", "E402", "--config", str(ROOT / "pyproject.toml"), "--line-length", "88"]
    ruff = [sys.executable, "-m", "ruff"]
    assert subprocess.run([*ruff, "check", *options, "--select", "E501", path]).returncode == 0
    assert subprocess.run([*ruff, "check", *options, path]).returncode == 0
    assert (
        subprocess.run([*ruff, "format", "--check", "--line-length", "100", path]).returncode == 0
    )
    assert len(colab.bootstrap_cell().splitlines()) <= 20


def run_cell(folder, path="", before=""):
    """Run the bootstrap cell in ``folder`` with git looked for in ``path``; ``before`` runs first."""
    code = f"{before}\n{colab.bootstrap_cell()}\nimport helpers.runtime as r; print(r.__file__)"
    return subprocess.run(
        [sys.executable, "-I", "-c", code],
        cwd=folder,
        env={"PATH": str(path)},
        capture_output=True,
        text=True,
    )


IN_COLAB = "import sys; sys.modules['google.colab'] = sys"


def test_outside_colab_the_cell_only_finds_helpers():
    done = run_cell(ROOT / "notebooks")
    assert done.stdout == f"{ROOT / 'helpers' / 'runtime.py'}\n" and done.stderr == ""


def test_a_repository_that_cannot_be_fetched_is_said_with_the_cure(tmp_path):
    (git := tmp_path / "git").write_text("#!/bin/sh\necho 'not found' >&2\nexit 128\n")
    git.chmod(0o755)
    done = run_cell(tmp_path, path=f"{tmp_path}:/bin", before=IN_COLAB)
    repository, tag = colab.address()
    assert done.returncode == 1
    assert f"no {tag} at {repository}: not found" in done.stderr
    assert "pyproject.toml" in done.stderr and colab.COMMAND in done.stderr


@pytest.fixture
def image(tmp_path, monkeypatch, project):
    """A Colab with ``oldlib`` 1.0 (its module can be imported) where 2.0 is wanted; pip is replaced, its calls are returned."""
    site = tmp_path / "site"
    (site / "oldlib-1.0.dist-info").mkdir(parents=True)
    (site / "oldlib.py").touch()

    def state(version):
        (info,) = site.glob("oldlib-*.dist-info")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: oldlib\nVersion: {version}\n")
        (info / "top_level.txt").write_text("oldlib\n")
        info.rename(site / f"oldlib-{version}.dist-info")

    state("1.0")
    monkeypatch.syspath_prepend(site)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(colab, "_stale", set())
    monkeypatch.setattr(colab, "KEEP", ("pytest",))
    (tmp_path / "requirements-colab.txt").write_text("# what is missing\noldlib==2.0\n")
    calls = []

    def pip(*arguments):
        calls.append(arguments)
        state("2.0")

    monkeypatch.setattr(colab, "_pip", pip)
    yield calls
    sys.modules.pop("oldlib", None)


def test_nothing_loaded_means_no_restart_and_a_second_run_installs_nothing(image, capsys, tmp_path):
    colab.prepare()
    assert image == [("install", "oldlib==2.0", f"pytest=={metadata.version('pytest')}")]
    said = capsys.readouterr().out
    assert "changed: oldlib 1.0 -> 2.0" in said and said.endswith("\nno restart needed\n")
    assert runtime.Path.cwd() == tmp_path / "notebooks"
    colab.prepare()
    assert len(image) == 1
    assert capsys.readouterr().out == "everything is installed already; no restart needed\n"


def test_a_loaded_module_that_changed_asks_for_a_restart_until_there_is_one(image):
    __import__("oldlib")
    for _ in range(2):
        with pytest.raises(SystemExit, match="Restart needed: oldlib"):
            colab.prepare()
    assert len(image) == 1


def test_torchao_goes_and_nothing_else(image, monkeypatch):
    monkeypatch.setattr(colab, "UNWANTED", "oldlib")
    (runtime.project_root() / "requirements-colab.txt").write_text("oldlib==1.0\n")
    colab.prepare()
    assert image == [("uninstall", "--yes", "oldlib")]


def test_a_failing_pip_is_reported_in_its_own_words():
    with pytest.raises(RuntimeError, match=r"(?s)pip install failed.*no-such-folder"):
        colab._pip("install", "--no-index", "./no-such-folder")


def test_the_lessons_tell_the_cell_by_its_path_line():
    for path in lessons.notebooks():
        cells = json.loads(path.read_text())["cells"]
        first = next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        assert re.search(r"^sys\.path\.insert\(", first, re.M), path.name
