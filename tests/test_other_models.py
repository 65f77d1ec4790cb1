"""The lessons on a model that is not the embedded one, in full and in 4 bit: what a GPU's profile changes, as far as a CPU can say.

A small random model stands in for the larger ones, so what it writes is noise and no score is looked at; that every cell runs is the point.
Run on a GPU for the first time, lesson 04 stopped at an assertion that holds for the embedded model only.
"""

import os

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


@pytest.fixture
def run(tiny_llama, tmp_path, monkeypatch):
    """Run lessons on a new random model of so many layers, as dry runs with a runs folder of their own.

    What the retriever has fitted is taken over, as it does not ask for a model.
    """
    if not (models.models_dir() / runtime.EMBEDDED / "tokenizer.json").exists():
        pytest.skip("the embedded model is not unpacked: make setup")
    model, runs, fitted = tmp_path / "model", tmp_path / "runs", runtime.runs_dir() / "cache"
    fitted.mkdir(exist_ok=True)
    runs.mkdir()
    (runs / "cache").symlink_to(fitted)
    monkeypatch.setenv("WORKSHOP_RUNS", str(runs))
    monkeypatch.setenv("WORKSHOP_SHARE", "0.02")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    tokenizer = models.load_tokenizer(PROFILE)
    tokenizer.save_pretrained(model)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    shape = {"vocab_size": len(tokenizer), "hidden_size": 64, "max_position_embeddings": 4096}

    def lessons(numbers: str, layers: int, quantized: bool) -> None:
        tiny_llama(
            num_hidden_layers=layers, tie_word_embeddings=True, **shape, **ends
        ).save_pretrained(model)
        stand_in = STAND_IN.format(model=str(model), quantized=quantized)
        for number in numbers.split():
            (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
            notebook = nbformat.read(path, as_version=4)
            notebook.cells.insert(0, nbformat.v4.new_code_cell(stand_in))
            place = {"metadata": {"path": str(path.parent)}}
            NotebookClient(notebook, timeout=600, resources=place).execute()

    return lessons


@pytest.mark.parametrize(
    "quantized",
    [False, pytest.param(True, marks=pytest.mark.every_lesson)],  # slow on a CPU
    ids=["full", "4 bit"],
)
def test_lesson_04_trains_compares_and_scores_another_model(run, quantized):
    run("04", 3, quantized)


@pytest.mark.every_lesson
@pytest.mark.parametrize("quantized", [False, True], ids=["full", "4 bit"])
def test_the_lessons_behind_it_run_on_its_adapters(run, quantized):
    """Sixteen layers, since lessons 06 and 07 adapt those from the tenth up."""
    run("04 05 06 07", 16, quantized)
