import json
import os

import pytest

from helpers import again, knowledge, labs, runtime

PROFILE = runtime.Profile("cpu", runtime.EMBEDDED, "float32", False, "cpu", "test")


def facts(reworded: str, seconds: float = 60.0, **changes) -> dict:
    return {
        "key": "110011001100",  # digits like an outcome's, and none
        "setting": knowledge.settings("facts", **changes),
        "outcomes": {"seen": "1111", "reworded": reworded},
        "samples": [{"reply": "10"}],
        "train_seconds": seconds,
        "machine": "a machine",
    }


def test_outcomes_are_the_strings_of_0_and_1_by_where_they_stand():
    assert again.outcomes(facts("0110")) == {"seen": "1111", "reworded": "0110"}
    points = {"points": [{"epoch": 0.5, "probe": {"fact": "10"}, "prose": [[2.9, 2]]}]}
    assert again.outcomes(points) == {"points, epoch 0.5, probe, fact": "10"}


def test_every_kept_line_has_outcomes_and_agrees_with_itself():
    lines = [json.loads(line) for line in open(labs.path(), encoding="utf-8")]
    table = again.compared(lines, lines)
    assert len(table) == len(lines) > 40 and (table["questions"] >= 50).all()
    assert (table["same %"] == 100).all() and (table["p, Holm"] == 1).all()
    assert table["run"].is_unique


def test_what_moved_most_is_named_with_both_shares():
    row = again.compared([facts("0" * 12)], [facts("1" * 9 + "000", 90.0)]).iloc[0]
    assert row["moved most"] == "reworded"
    assert (row["kept %"], row["again %"], row["same %"]) == (0, 75, pytest.approx(100 * 7 / 16))
    assert row["p, Holm"] == pytest.approx(2 * 2 * 0.5**9)  # two sides, two groups
    assert (row["kept s"], row["again s"]) == (60, 90)


def test_lines_of_other_questions_are_refused():
    with pytest.raises(ValueError, match="facts wordings=16.*the same questions"):
        again.compared([facts("01", wordings=16)], [facts("011", wordings=16)])


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of runs of its own; what ``main`` sets is taken back."""
    monkeypatch.setenv("WORKSHOP_RUNS", str(tmp_path))
    monkeypatch.setenv("WORKSHOP_LABS", "")
    monkeypatch.setattr(runtime, "start", lambda: PROFILE)
    return tmp_path / "labs.jsonl"


def test_new_lines_go_to_runs_and_stand_beside_the_kept_ones(here, monkeypatch, capsys):
    before = labs.path().read_bytes()

    def made(module, runs):
        assert module == "helpers.knowledge" and ["facts", "wordings=16", "seed=0"] in runs
        line = json.loads(next(x for x in before.decode().splitlines() if '"wordings": 16' in x))
        assert str(labs.path()) == os.environ["WORKSHOP_LABS"] == str(here)
        here.write_text(json.dumps(line) + "\n")

    monkeypatch.setattr(labs, "make_each", made)
    assert again.main(["07"]) == 0
    out = capsys.readouterr().out
    assert "facts wordings=16" in out and "0 of 1 runs" in out
    monkeypatch.delenv("WORKSHOP_LABS")
    assert labs.path().read_bytes() == before


def test_a_dry_run_or_an_unknown_lesson_says_what_to_do(here, monkeypatch, capsys):
    assert again.main(["08"]) == 2
    assert "lesson is 08; one of 04, 05, 06, 07, or nothing for all" in capsys.readouterr().out
    monkeypatch.setenv("WORKSHOP_FAST", "1")
    assert again.main([]) == 2
    assert "keeps no lines" in capsys.readouterr().out
