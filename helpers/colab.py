"""Open a lesson in Colab: ``python -m helpers.colab write | check``, and what the bootstrap cell calls.

``write`` puts the badge and the bootstrap cell into every lesson, ``check`` says where they differ from what it would write. The
repository's address and the tag (``v`` and the version) stand in ``pyproject.toml`` alone. Imports only the standard
library: in Colab it runs before anything is installed.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from helpers import runtime

COMMAND = "python -m helpers.colab write"
KEEP = ("torch", "ipywidgets")
UNWANTED = "torchao"
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
CELL = """\
# Finds `helpers`; in Colab it fetches the workshop and installs what is missing first.
import subprocess
import sys
from pathlib import Path

REPOSITORY = "{repository}"
TAG = "{tag}"
in_colab, fetched = "google.colab" in sys.modules, Path("bramble-workshop").resolve()
places = [Path.cwd(), *Path.cwd().parents, fetched]
if in_colab and not any((place / "helpers").is_dir() for place in places):
    git = ["git", "clone", "--depth=1", f"--branch={{TAG}}", REPOSITORY, str(fetched)]
    if (said := subprocess.run(git, capture_output=True, text=True)).returncode:
        cure = "In a fork: set it in pyproject.toml, then {command}"
        raise SystemExit(f"no {{TAG}} at {{REPOSITORY}}: {{said.stderr}}\\n{{cure}}")
sys.path.insert(0, str(next(place for place in places if (place / "helpers").is_dir())))
if in_colab:
    from helpers import colab

    colab.prepare()
"""

# Distributions that pip changed while this kernel had loaded them; they stay loaded as long as this module does.
_stale: set[str] = set()


def bootstrap_cell() -> str:
    """The source of every lesson's first code cell, for the address and tag of ``pyproject.toml``."""
    repository, tag = address()
    return CELL.format(repository=repository, tag=tag, command=COMMAND).rstrip("\n")


def address() -> tuple[str, str]:
    """The repository's address and the tag that Colab fetches, from ``pyproject.toml``."""
    import tomllib

    text = (runtime.project_root() / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    return project["urls"]["Repository"].rstrip("/"), f"v{project['version']}"


def badge(lesson: str) -> str:
    """The Markdown of a lesson's badge; ``lesson`` is its file's name."""
    repository, tag = address()
    place = repository.removeprefix("https://github.com/")
    link = f"https://colab.research.google.com/github/{place}/blob/{tag}/notebooks/{lesson}"
    return f"[![Open in Colab]({BADGE})]({link})"


def written(path: Path) -> str:
    """The text of a lesson with its badge and bootstrap cell as they should be, every other byte as it is.

    The badge stands under the heading; the bootstrap takes the place of the first code cell, which must be an older one.
    Raises ValueError, with what to do, if the lesson has no such heading or cell, or another layout than ``make run`` writes.
    """
    text = path.read_text(encoding="utf-8")
    notebook = json.loads(text)
    if _dumped(notebook) != text:
        raise ValueError(f"{path.name}: not laid out as 'make run' writes it; run that first")
    head, source = notebook["cells"][0], _source(notebook["cells"][0])
    title, _, rest = re.sub(r"\[!\[Open in Colab\]\(.*\n\n", "", source).partition("\n\n")
    if head["cell_type"] != "markdown" or not re.fullmatch(r"# .+", title):
        raise ValueError(
            f"{path.name}: the first cell does not begin with '# Title' and a blank line"
        )
    code = next((cell for cell in notebook["cells"] if cell["cell_type"] == "code"), None)
    if code is None or "sys.path.insert" not in _source(code):
        raise ValueError(
            f"{path.name}: the first code cell is not a bootstrap cell (no sys.path.insert in it); put an empty one "
            f"with that line before it, then: {COMMAND}"
        )
    _put(head, f"{title}\n\n{badge(path.name)}\n\n{rest}")
    _put(code, bootstrap_cell())
    return _dumped(notebook)


def _dumped(notebook: dict) -> str:
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _source(cell: dict) -> str:
    return "".join(cell["source"])


def _put(cell: dict, source: str) -> None:
    """Replace a cell's source in the form it has, one string or a list of lines."""
    in_lines = isinstance(cell["source"], list)
    cell["source"] = source.splitlines(keepends=True) if in_lines else source


def wanted() -> list[str]:
    """What Colab lacks for the lessons: the lines of ``requirements-colab.txt``."""
    text = (runtime.project_root() / "requirements-colab.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def installed(names) -> dict[str, str]:
    """The version of each distribution among ``names`` that is installed."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _pip(*arguments: str) -> None:
    """Run pip quietly. Raises RuntimeError with its own words if it fails."""
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise RuntimeError(
            f"pip {arguments[0]} failed; nothing of the lesson has run. Check the connection, then run "
            f"this cell again.\n{reason}"
        )


def prepare() -> None:
    """Install what Colab lacks, say what changed and whether a restart is needed, and go to the lessons' folder.

    torch and ipywidgets keep their versions: they fit the GPU and the front end. torchao goes, since peft refuses Colab's. Run
    again, it finds nothing to do. Raises SystemExit, which stops "Run all" and not the kernel, where a module that is
    already loaded was changed, and RuntimeError where pip fails.
    """
    pins = dict(line.split("==") for line in wanted())
    missing = [f"{name}=={pin}" for name, pin in pins.items() if installed([name]) != {name: pin}]
    names = {found.name for found in metadata.distributions() if found.name}
    before, owners = installed(names), metadata.packages_distributions()
    if missing:
        print(f"installing {', '.join(missing)} (about a minute)")
        _pip("install", *missing, *(f"{k}=={v}" for k, v in installed(KEEP).items()))
    if UNWANTED in before:
        _pip("uninstall", "--yes", UNWANTED)
    importlib.invalidate_caches()
    changed = {name for name in before if installed([name]) != {name: before[name]}}
    loaded = {name for module in list(sys.modules) for name in owners.get(module, [])}
    _stale.update(changed & loaded)
    moved = [f"{n} {before[n]} -> {installed([n]).get(n, 'removed')}" for n in sorted(changed)]
    if moved:
        print(f"changed: {', '.join(moved)}")
    if _stale:
        raise SystemExit(
            f"Restart needed: {', '.join(sorted(_stale))} was loaded before it was changed. Choose Runtime > "
            "Restart session, then run the lesson from the top; nothing is installed again."
        )
    nothing = "" if missing or moved else "everything is installed already; "
    print(f"{nothing}no restart needed")
    os.chdir(runtime.project_root() / "notebooks")


def faults() -> list[str]:
    """The lessons whose badge or bootstrap cell is not what ``write`` would make of ``pyproject.toml``."""
    from helpers import lessons

    found = []
    for path in lessons.notebooks():
        try:
            if written(path) != path.read_text(encoding="utf-8"):
                found.append(f"{path.name}: badge or bootstrap cell is out of date; {COMMAND}")
        except ValueError as error:
            found.append(str(error))
    return found


def write() -> list[str]:
    """Bring every lesson's badge and bootstrap cell up to date; returns the names of those that changed."""
    from helpers import lessons

    new = {path: written(path) for path in lessons.notebooks()}
    changed = [path for path, text in new.items() if text != path.read_text(encoding="utf-8")]
    for path in changed:
        part = path.with_suffix(".ipynb.part")
        part.write_text(new[path], encoding="utf-8")
        os.replace(part, path)
    return [path.name for path in changed]


def main(arguments: list[str]) -> int:
    if arguments == ["write"]:
        changed = write()
        print(f"changed: {', '.join(changed) or 'nothing'}")
        return 0
    if arguments == ["check"]:
        found = faults()
        print("\n".join(found) or "badges and bootstrap cells agree with pyproject.toml")
        return bool(found)
    print("usage: python -m helpers.colab write | check")
    return 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
