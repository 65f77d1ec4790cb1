"""Score floors, a few points under what the committed notebooks show. They run last, on the rows that the lessons just wrote."""

import json

import pytest

from helpers import data, runtime, scoreboard

# (method, score, least share of the whole work, least share of half of it), some points under what was measured;
# half is what `make test` does: half of the training rows and half of the test tickets. See CONTRIBUTING.md.
FLOORS = [
    ("keyword-rule", "resolved", 0.20, 0.17),
    ("retrieve-and-quote", "resolved", 0.50, 0.45),
    ("few-shot", "format", 0.75, 0.72),
    ("few-shot-constrained", "format", 0.96, 0.94),
    ("rag-few-shot", "policy", 0.50, 0.45),
    ("sft", "format", 0.95, 0.90),
    ("sft", "triage", 0.33, 0.10),
    ("sft-rag", "format", 0.97, 0.94),
    ("sft-rag", "policy", 0.88, 0.82),
    ("sft-rag", "facts", 0.73, 0.62),
    ("sft-rag", "resolved", 0.74, 0.55),
]
MODEL_ROWS = scoreboard.ORDER[2:]


@pytest.fixture(scope="module")
def board() -> dict[str, dict]:
    if runtime.share() not in (0.5, 1.0):
        pytest.skip("floors are known for all of the work and for half of it")
    if not scoreboard.scoreboard_path().exists():
        pytest.skip("no scoreboard in this runs folder: run the lessons first ('make test' does)")
    return {row["method"]: row for row in scoreboard.read()}


@pytest.mark.parametrize("method", scoreboard.ORDER)
def test_the_scoreboard_has_a_row_over_the_whole_test_set(board, method):
    assert board[method]["n"] == len(runtime.thinned(data.tickets("test")))


@pytest.mark.parametrize(("method", "score", "whole", "half"), FLOORS)
def test_score_is_above_its_floor(board, method, score, whole, half):
    assert board[method][score]["value"] >= (half if runtime.fast() else whole)


def test_every_model_row_has_its_price(board):
    for method in MODEL_ROWS:
        assert board[method]["prompt_tokens"] and board[method]["latency_p50_s"], method


def test_tuning_with_retrieval_beats_prompting_with_retrieval(board):
    assert board["sft-rag"]["resolved"]["low"] > board["rag-few-shot"]["resolved"]["high"]


def test_the_tuned_rows_were_trained_in_this_run(board):
    assert {board[name]["adapter"] for name in ("sft", "sft-rag")} == {"trained here"}


def test_every_line_of_the_scoreboard_is_json():
    path = scoreboard.scoreboard_path()
    if not path.exists():
        pytest.skip("no scoreboard in this runs folder")
    assert all(json.loads(line)["method"] for line in path.read_text(encoding="utf-8").splitlines())
