"""The bootstrap cell and two lessons as Colab would run them, up to the machine: ``make test-colab``.

Colab is played by a copy of ``.venv-colab`` (Colab's versions; ``make setup-colab``), an IPython start-up file that imports a
``google.colab``, an empty folder with nothing but the lesson in it, and git told to find the repository on this disk.
"""

import json
import os
import shutil
import subprocess
import tempfile

import nbformat
import pytest
from nbclient import NotebookClient

from helpers import colab, models, runtime

ROOT = runtime.project_root()
IMAGE = ROOT / ".venv-colab"


def run(*command, **options) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout


def versions(python) -> dict[str, str]:
    # in the virtual environment itself, not in what a caller's PYTHONPATH adds
    listed = run(str(python), "-I", "-m", "pip", "list", "--format=json")
    return {found["name"].lower(): found["version"] for found in json.loads(listed)}


def link(source, target):
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


@pytest.fixture(scope="module")
def python():
    """The Python of a throw-away copy of the image, with the torchao that peft refuses."""
    if not (IMAGE / ".installed").exists():
        pytest.skip("Colab's versions are not installed here: make setup-colab")
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".venv-colab-") as folder:
        venv = f"{folder}/venv"
        shutil.copytree(IMAGE, venv, symlinks=True, copy_function=link)
        interpreter = f"{venv}/bin/python"
        reached = subprocess.run(
            [interpreter, "-m", "pip", "download", "--no-deps", "--retries=0", "-d", folder, "pip"],
            capture_output=True,
        )
        if reached.returncode:
            pytest.skip(
                "the package registry cannot be reached: the bootstrap cell installs from it"
            )
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        stub = f"{run(interpreter, '-c', code).strip()}/torchao-0.10.0.dist-info"
        os.mkdir(stub)
        for name, text in {
            "METADATA": "Metadata-Version: 2.1\nName: torchao\nVersion: 0.10.0\n",
            "INSTALLER": "pip\n",
            "RECORD": "".join(
                f"torchao-0.10.0.dist-info/{name},,\n"
                for name in ("METADATA", "INSTALLER", "RECORD")
            ),
        }.items():
            with open(f"{stub}/{name}", "w") as file:
                file.write(text)
        yield interpreter


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository of this working tree, with the lessons as ``write`` makes them and the tag that the cell asks for."""
    folder = tmp_path_factory.mktemp("repository")
    listed = run("git", "ls-files", "-z", "-co", "--exclude-standard", cwd=ROOT).split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    for path in sorted((folder / "notebooks").glob("*.ipynb")):
        path.write_text(colab.written(path), encoding="utf-8")
    who = (
        "-c",
        "user.name=test",
        "-c",
        "user.email=test@example.org",
        "-c",
        "commit.gpgsign=false",
    )
    run("git", "init", "-q", cwd=folder)
    run("git", "add", "-A", cwd=folder)
    run("git", *who, "commit", "-q", "-m", "as it stands", cwd=folder)
    run("git", *who, "tag", colab.address()[1], cwd=folder)
    return folder


@pytest.fixture(scope="module")
def content(python, repository, tmp_path_factory):
    """Colab's working folder, and the environment of its kernel."""
    home = tmp_path_factory.mktemp("colab")
    package = home / "lib" / "google" / "colab"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    startup = home / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00-colab.py").write_text("import google.colab\n")
    kernel = home / "jupyter" / "kernels" / "colab"
    kernel.mkdir(parents=True)
    command = [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "Colab", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    (home / "content").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("WORKSHOP_", "HF_"))]:
            patch.delenv(name)
        for name, value in {
            "JUPYTER_PATH": home / "jupyter",
            "IPYTHONDIR": home / "ipython",
            "PYTHONPATH": home / "lib",
            "WORKSHOP_FAST": 1,
            "WORKSHOP_MODELS": MODELS,
            "GIT_CONFIG_COUNT": 1,
            "GIT_CONFIG_KEY_0": f"url.file://{repository}.insteadOf",
            "GIT_CONFIG_VALUE_0": colab.address()[0],
        }.items():
            patch.setenv(name, str(value))
        yield home / "content"


MODELS = models.models_dir().resolve()


def execute(repository, content, lesson) -> list[str]:
    """Run a lesson that came alone into ``content``; returns what each code cell printed."""
    shutil.copy(repository / "notebooks" / lesson, content)
    notebook = nbformat.read(content / lesson, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=1800,
        kernel_name="colab",
        extra_arguments=["--log-level=40"],
        resources={"metadata": {"path": str(content)}},
    )
    client.execute()
    return [
        "".join(output.get("text", "") for output in cell.outputs if output.get("name") == "stdout")
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def test_lessons_00_and_04_run_in_colab_after_one_installation(python, repository, content):
    before = versions(python)
    printed = execute(repository, content, "00_start_here.ipynb")
    after = versions(python)
    assert printed[0].startswith("installing trl==") and "no restart needed" in printed[0]
    kept = ("torch", "ipywidgets", "transformers", "peft", "numpy", "pandas")
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert "torchao" in before and "torchao" not in after
    pins = dict(line.split("==") for line in colab.wanted())
    assert {name: after[name] for name in pins} == pins
    assert f"transformers {before['transformers']} trl {pins['trl']}" in printed[1]

    printed = execute(repository, content, "04_sft_lora.ipynb")
    assert printed[0] == "everything is installed already; no restart needed\n"
    assert versions(python) == after
    assert (content / "bramble-workshop" / "runs" / "adapters").is_dir()


PANELS = """\
import ipywidgets
from transformers import LlamaConfig, LlamaForCausalLM

from helpers import data, errors, models, retrieval, runtime
from helpers.widgets import lesson00, lesson01, lesson02, lesson03, lesson04, lesson05, lesson06, lesson07

rows = data.tickets("validation")[:4]
right = [data.dumps(row["reply"]) for row in rows]
texts = {"good": right, "half": [text if i % 2 else "no" for i, text in enumerate(right)]}
wrong = {name: errors.wrong_replies(said, rows) for name, said in texts.items()}
profile = runtime.choose_profile(runtime.Machine("old", 2, 8.0, fast_bf16=False))
tiny = LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
panels = [
    lesson00.profile_card({"laptop": runtime.Machine("old", 2, 8.0, fast_bf16=False)}),
    lesson01.prompt_playground(None, rows, rows),
    lesson02.retrieval_explorer([retrieval.BM25(data.handbook())], rows[0]["ticket"]),
    lesson03.token_viewer(models.load_tokenizer(profile), rows),
    lesson04.lora_explorer(LlamaForCausalLM(tiny), 8),
    lesson04.LivePanel(),
    lesson05.error_browser(rows, texts, "half", "good", wrong),
    lesson06.memory_sliders(),
    lesson07.decision_sheet([]),
]
panels[6].controls["cause"].value = "format"
panels[6].buttons[1].click()
assert panels[6].controls["ticket"].value == rows[2]["id"]
for panel in panels:
    assert panel._repr_mimebundle_()["text/html"]
    assert "alert" not in getattr(panel, "status", ipywidgets.HTML()).value, panel.status.value
    for control in getattr(panel, "controls", {}).values():
        if isinstance(control, ipywidgets.Dropdown):
            control.index = len(control.options) - 1
print(ipywidgets.__version__, len(panels))"""


def test_every_panel_answers_under_colabs_ipywidgets(python, repository, content):
    if not (content / "bramble-workshop").is_dir():
        execute(repository, content, "00_start_here.ipynb")
    said = run(python, "-c", PANELS, cwd=content / "bramble-workshop")
    assert said.split() == ["7.7.1", "9"]
