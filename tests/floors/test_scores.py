"""Score floors, a few points under what the committed notebooks show. They run last, on the rows that the lessons just wrote."""

import json

import pytest

from helpers import runtime, scoreboard

# method: (score, least share). Each stands some points under the figure of the committed scoreboard; see CONTRIBUTING.md.
FLOORS = [
    ("keyword-rule", "resolved", 0.20),
    ("retrieve-and-quote", "resolved", 0.50),
    ("few-shot", "format", 0.75),
    ("few-shot-constrained", "format", 0.96),
    ("rag-few-shot", "policy", 0.50),
    ("sft", "format", 0.95),
    ("sft", "triage", 0.33),
    ("sft-rag", "format", 0.97),
    ("sft-rag", "policy", 0.88),
    ("sft-rag", "facts", 0.73),
    ("sft-rag", "resolved", 0.74),
]
MODEL_ROWS = scoreboard.ORDER[2:]


@pytest.fixture(scope="module")
def board() -> dict[str, dict]:
    if runtime.fast():
        pytest.skip("a dry run has no scores worth a floor")
    if not scoreboard.scoreboard_path().exists():
        pytest.skip("no scoreboard in this runs folder: run the lessons first ('make test' does)")
    return {row["method"]: row for row in scoreboard.read()}


@pytest.mark.parametrize("method", scoreboard.ORDER)
def test_the_scoreboard_has_a_row_over_the_whole_test_set(board, method):
    test_rows = sum(
        1 for _ in open(runtime.project_root() / "data/tickets/test.jsonl", encoding="utf-8")
    )
    assert board[method]["n"] == test_rows


@pytest.mark.parametrize(("method", "score", "floor"), FLOORS)
def test_score_is_above_its_floor(board, method, score, floor):
    assert board[method][score]["value"] >= floor


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
