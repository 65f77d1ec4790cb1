"""The lessons on a model that is not the embedded one, in full and in 4 bit: what a GPU's profile changes, as far as a CPU can say.

A small random model stands in for the larger ones, so what it writes is noise and no score is looked at; that every cell runs is the point.
Run on a GPU for the first time, lesson 04 stopped at an assertion that holds for the embedded model only.
"""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from helpers import models, runtime

ROOT = runtime.project_root()
PROFILE = runtime.Profile("cpu", runtime.EMBEDDED, "float32", False, "cpu", "test")
STAND_IN = """\
from dataclasses import replace

from helpers import runtime

_as_chosen = runtime.choose_profile


def choose_profile(*args):
    return replace(_as_chosen(*args), model={model!r}, quantized={quantized}, int8=False)


runtime.choose_profile = choose_profile
"""


@pytest.fixture(scope="module")
def other_model(tiny_llama, tmp_path_factory):
    """A folder with a model of sixteen layers (lessons 06 and 07 adapt those from the tenth up)."""
    if not (models.models_dir() / runtime.EMBEDDED / "tokenizer.json").exists():
        pytest.skip("the embedded model is not unpacked: make setup")
    folder = tmp_path_factory.mktemp("other-model")
    tokenizer = models.load_tokenizer(PROFILE)
    tokenizer.save_pretrained(folder)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    shape = {"hidden_size": 64, "num_hidden_layers": 16, "max_position_embeddings": 4096}
    tiny_llama(
        vocab_size=len(tokenizer), tie_word_embeddings=True, **shape, **ends
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A runs folder of its own; what the retriever has fitted is taken over, as it does not ask for a model."""
    folder = tmp_path_factory.mktemp("runs")
    fitted = runtime.runs_dir() / "cache"
    fitted.mkdir(exist_ok=True)
    for name in ("False", "True"):
        (folder / name).mkdir()
        (folder / name / "cache").symlink_to(fitted)
    return folder


@pytest.mark.parametrize(
    "lesson", ["04", *(pytest.param(n, marks=pytest.mark.every_lesson) for n in ("05", "06", "07"))]
)
@pytest.mark.parametrize("quantized", [False, True], ids=["full", "4 bit"])
def test_every_cell_runs(lesson, quantized, other_model, runs, monkeypatch):
    monkeypatch.setenv("WORKSHOP_RUNS", str(runs / str(quantized)))
    monkeypatch.setenv("WORKSHOP_SHARE", "0.02")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (path,) = Path(ROOT / "notebooks").glob(f"{lesson}_*.ipynb")
    notebook = nbformat.read(path, as_version=4)
    stand_in = STAND_IN.format(model=str(other_model), quantized=quantized)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(stand_in))
    NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}
    ).execute()
