"""The decision sheet: what an answer forbids, what the board orders, and what it says against a choice."""

import itertools
import re

import pytest

from helpers import decide, scoreboard
from helpers.evaluation import SCORES
from helpers.statistics import wilson
from helpers.widgets import lesson07
from helpers.widgets.base import as_text

N = 200
# Shares of (format, triage, policy, facts and product and resolved) of a made-up board, and its prices.
SHARES = {
    "keyword-rule": (1.0, 0.4, 0.3, 0.25),
    "minilm-and-paste": (1.0, 0.5, 0.5, 0.4),
    "retrieve-and-quote": (1.0, 0.9, 0.9, 0.55),
    "retrieve-and-paste": (1.0, 0.9, 0.9, 0.58),
    "zero-shot": (0.1, 0.1, 0.0, 0.0),
    "few-shot": (0.6, 0.2, 0.05, 0.02),
    "few-shot-constrained": (1.0, 0.2, 0.05, 0.02),
    "rag-few-shot": (0.6, 0.3, 0.7, 0.15),
    "sft": (1.0, 0.7, 0.2, 0.1),
    "sft-rag": (1.0, 0.95, 0.9, 0.8),
}
TOKENS = (None, 0, 0, 0, 300, 1100, 1100, 1500, 60, 110)
TRAINED = {"sft": 260.0, "sft-rag": 600.0}


def row(method, model=None, created="2026-01-01", **shares):
    found = dict(zip(("format", "triage", "policy", "facts"), SHARES[method])) | shares
    found = {name: found.get(name, found["facts"]) for name in SCORES}
    rates = {}
    for name, value in found.items():
        low, high = wilson(round(value * N), N)
        rates[name] = {"value": value, "low": low, "high": high}
    needs_model = "model" in decide.METHODS[method][1]
    return {
        "method": method,
        "model": model or ("small" if needs_model else "none"),
        "n": N,
        "created": created,
        "prompt_tokens": dict(zip(SHARES, TOKENS))[method],
        "latency_p50_s": (2.0 if method in TRAINED else 4.0) if needs_model else 0.01,
        "train_seconds": TRAINED.get(method),
        **rates,
    }


BOARD = [row(method) for method in SHARES]


def standing(answers, rows=BOARD):
    return {a.option: a.standing for a in decide.recommend(answers, rows)}


def reasons(option, answers, rows=BOARD):
    (found,) = [a for a in decide.recommend(answers, rows) if a.option == option]
    return " ".join(found.reasons)


def first(answers, rows=BOARD):
    return decide.recommend(answers, rows)[0].method


def test_every_row_of_the_road_is_an_example_of_an_option_in_the_boards_order():
    assert tuple(decide.METHODS) == tuple(
        sorted(scoreboard.ORDER, key=list(decide.METHODS).index)
    ) and set(decide.METHODS) == set(scoreboard.ORDER)
    claimed = {name for claims in decide.CLAIMS.values() for claim in claims for name in claim[2:4]}
    assert claimed <= set(decide.METHODS)
    assert {claim[4] for claims in decide.CLAIMS.values() for claim in claims} <= set(SCORES)
    assert {claim[0] for claims in decide.CLAIMS.values() for claim in claims} <= set(
        decide.QUESTIONS
    )
    assert {option for option, *_ in decide.METHODS.values()} == set(decide.CLAIMS)


ALL_ANSWERS = [
    dict(zip(decide.QUESTIONS, combination))
    for combination in itertools.product(*(a for _, a in decide.QUESTIONS.values()))
    if combination[4] == 1_000 and combination[5] != 1_000
]


def test_no_answers_end_in_a_recommendation_that_the_board_contradicts_in_silence():
    for answers in ALL_ANSWERS:
        score = decide.score_that_counts(answers)
        board = decide.board_of(BOARD)
        advice = decide.recommend(answers, BOARD)
        assert advice[0].method and {a.option for a in advice} == set(decide.CLAIMS)
        said = " ".join(advice[0].reasons)
        for name, other in board.items():
            if other[score]["low"] > board[advice[0].method][score]["high"]:
                assert f"AGAINST THIS CHOICE: your board has {name} higher" in said


def test_what_is_recommended_has_no_obstacle_and_every_reason_is_a_sentence():
    for answers in ALL_ANSWERS:
        for a in decide.recommend(answers, BOARD):
            if a.method:
                assert not list(decide.obstacles(a.method, answers, None))
            assert all(re.match(r"[\w-]", r) and r.endswith(".") for r in a.reasons)
            assert a.reasons


def test_the_desk_of_the_workshop_takes_the_highest_row_and_names_its_figures():
    assert first({}) == "sft-rag" and standing({})["fine-tune"] == "ruled out"
    said = reasons("fine-tune + retrieve", {})
    assert "resolved 80 % (74 to 85, n = 200)" in said
    assert "facts 10 %" in said and "with sft, 80 %" in said


@pytest.mark.parametrize(
    ("answers", "option", "cause"),
    [
        ({"documents": "no"}, "retrieve", "there are no documents"),
        ({"documents": "no"}, "fine-tune + retrieve", "there are no documents"),
        ({"host": "nobody"}, "prompt", "nobody can host one"),
        ({"host": "an API, as it comes"}, "fine-tune + retrieve", "does not serve"),
        ({"examples": "tens"}, "fine-tune + retrieve", "its row does not speak for you"),
        ({"changes": "each week"}, "fine-tune", "each week (the first took 260 s)"),
        ({"documents": "no"}, "retrieve", "there are no documents"),
        ({"harm": "yes, and nobody reads along"}, "prompt", "2 % (1 to 5, n = 200)"),
        ({"prompt tokens": 200}, "prompt", "few-shot reads 1100 tokens a request, and 200 are"),
    ],
)
def test_an_answer_rules_an_option_out_and_says_why(answers, option, cause):
    assert standing(answers)[option] == "ruled out" and cause in reasons(option, answers)


@pytest.mark.parametrize(
    ("answers", "option"),
    [
        ({"changes": "seldom or never"}, "fine-tune"),
        ({"documents": "no"}, "fine-tune"),
        ({"examples": "hundreds"}, "fine-tune + retrieve"),
        ({"examples": "none"}, "prompt"),
        ({"host": "nobody"}, "retrieve"),
        ({"harm": "yes, and nobody reads along"}, "retrieve"),
    ],
)
def test_an_answer_rules_out_no_more_than_it_says(answers, option):
    assert standing(answers)[option] != "ruled out"


def test_without_examples_only_the_prompt_without_any_is_left():
    answers = {"examples": "none", "page": "yes"}
    found = {a.option: a.method for a in decide.recommend(answers, BOARD)}
    assert found["prompt"] == "zero-shot" and found["retrieve"] == "minilm-and-paste"


@pytest.mark.parametrize("few", ["none", "tens"])
def test_a_retriever_that_learned_from_tickets_does_not_speak_for_who_has_few(few):
    answers = {"examples": few, "page": "yes"}
    found = {a.option: a.method for a in decide.recommend(answers, BOARD)}
    assert found["retrieve"] == "minilm-and-paste"
    said = reasons("retrieve", answers)
    assert "The retriever of retrieve-and-paste learned from 3,276 tickets and you have" in said


def test_a_pasted_page_is_out_where_a_reply_has_to_say_what_was_asked():
    found = {a.option: a.method for a in decide.recommend({}, BOARD)}
    assert found["retrieve"] == "retrieve-and-quote"
    assert "retrieve-and-paste sends what stands on the page" in reasons("retrieve", {})
    pasted = [r for r in BOARD if r["method"] != "retrieve-and-paste"]
    pasted.append(row("retrieve-and-paste", resolved=0.95))
    assert first({"page": "yes"}, pasted) == "retrieve-and-paste"
    (advice, *_) = decide.recommend({}, pasted)
    assert advice.method == "sft-rag" and "AGAINST THIS CHOICE" in " ".join(advice.reasons)


def test_a_retriever_from_thousands_promises_less_to_who_has_hundreds():
    assert "expect less than its row" in reasons("retrieve", {"examples": "hundreds"})


def test_among_rows_whose_intervals_overlap_the_simpler_comes_first():
    close = [r for r in BOARD if r["method"] != "sft-rag"] + [row("sft-rag", resolved=0.6)]
    assert first({}, close) == "retrieve-and-quote"
    clear = [r for r in BOARD if r["method"] != "sft-rag"] + [row("sft-rag", resolved=0.75)]
    assert first({}, clear) == "sft-rag"


def test_a_model_that_is_not_shown_to_beat_the_rule_is_told_so():
    assert "The keyword rule is higher" in reasons("prompt", {})
    near = [r for r in BOARD if r["method"] not in ("zero-shot", "few-shot")]
    near += [row(name, resolved=0.24) for name in ("zero-shot", "few-shot")]
    assert "Not shown to beat the keyword rule" in reasons("prompt", {}, near)
    assert "Not shown to beat" not in reasons("fine-tune + retrieve", {})
    assert "Not shown to beat" not in reasons("none", {})


@pytest.mark.parametrize(
    ("facts", "verdict"), [(0.9, "yes"), (0.55, "not shown"), (0.2, "YOUR BOARD SAYS NO")]
)
def test_a_claim_is_held_against_the_board_either_way(facts, verdict):
    board = decide.board_of([row("retrieve-and-quote"), row("rag-few-shot", facts=facts)])
    said = decide.held("Reading", "retrieve-and-quote", "rag-few-shot", "facts", board)
    assert said.startswith(f"Reading? {verdict}") and f"facts 55 % (48 to 62, n = {N})" in said


def test_a_missing_row_is_named_with_the_lesson_that_makes_it():
    rows = [r for r in BOARD if r["method"] != "sft-rag"]
    advice = decide.recommend({}, rows)
    said = reasons("fine-tune + retrieve", {}, rows)
    assert "no row of sft-rag: lesson 04 makes it" in said
    assert "no row of sft-rag (lesson 04 makes it)" in said
    assert advice[0].method == "retrieve-and-quote"
    assert "Not measured, so the order may change: fine-tune + retrieve" in decide.in_short(advice)


def test_an_empty_board_recommends_nothing():
    advice = decide.recommend({}, [])
    assert all(a.method is None and a.standing != "first" for a in advice)
    said = decide.in_short(advice)
    assert said.startswith("No row of your board speaks") and "fine-tune + retrieve" in said


def test_training_is_earned_back_by_the_seconds_that_a_reply_saves():
    assert "600 s of training are earned back in computing time by 300 requests" in reasons(
        "fine-tune + retrieve", {}
    )
    ready = [r | {"adapter": "ready-made"} for r in BOARD]
    assert "so the count is rough" not in reasons("fine-tune + retrieve", {})
    assert "so the count is rough" in reasons("fine-tune + retrieve", {}, ready)
    slow = [r for r in BOARD if r["method"] != "rag-few-shot"]
    slow += [row("rag-few-shot") | {"latency_p50_s": 1.0}]
    assert "computing time by no number of requests" in reasons("fine-tune + retrieve", {}, slow)
    assert "overlap)" not in reasons("fine-tune + retrieve", {}, slow)
    sure = {"sft-rag": [1.9, 2.1], "rag-few-shot": [3.9, 4.4]}
    board = [r | {"intervals": {"latency_p50_s": sure.get(r["method"], [1, 9])}} for r in BOARD]
    assert "by 300 requests (240 to 333)" in reasons("fine-tune + retrieve", {}, board)
    near = {"sft-rag": (1.5, 2.5), "rag-few-shot": (2.4, 4.5)}
    unsure = [
        r | {"intervals": {"latency_p50_s": near[r["method"]]}} if r["method"] in near else r
        for r in BOARD
    ]
    said = reasons("fine-tune + retrieve", {}, unsure)
    assert "one takes 2.0 (1.5 to 2.5) seconds" in said
    assert "not shown: their intervals overlap" in said
    assert "(110,000 tokens for 1,000 requests" in reasons("fine-tune + retrieve", {})
    assert "(1,100,000 tokens for 10,000" in reasons("fine-tune + retrieve", {"requests": 10_000})


def test_with_hundreds_of_examples_a_trained_row_is_said_to_promise_too_much():
    assert "expect less than its row" in reasons("fine-tune + retrieve", {"examples": "hundreds"})
    assert "expect less" not in reasons("fine-tune + retrieve", {})


def test_rows_of_two_models_are_not_mixed_and_the_newest_of_a_method_counts():
    rows = [
        row("few-shot", model="large", created="2026-01-03"),
        row("sft-rag", model="small", created="2026-01-04"),
        row("keyword-rule", created="2026-01-01", resolved=0.1),
        row("keyword-rule", created="2026-01-02", resolved=0.2),
        row("few-shot") | {"method": "sft-rag-replay"},
    ]
    board = decide.board_of(rows)
    assert set(board) == {"sft-rag", "keyword-rule"}
    assert board["keyword-rule"]["resolved"]["value"] == 0.2


def test_the_score_that_counts_follows_the_answers():
    scores = [
        decide.score_that_counts({"documents": d, "form": f})
        for d in ("yes", "no")
        for f in ("yes", "no")
    ]
    assert scores == ["resolved", "facts", "triage", "triage"]


@pytest.mark.parametrize(
    ("answers", "says"),
    [({"budget": "yes"}, "no question"), ({"form": "maybe"}, "form is 'maybe'; one of: yes; no")],
)
def test_an_unknown_question_or_answer_is_refused(answers, says):
    with pytest.raises(ValueError, match=says):
        decide.recommend(answers, BOARD)


def test_the_sheet_follows_its_controls_and_leaves_its_defaults_in_a_saved_notebook():
    panel = lesson07.decision_sheet(BOARD)
    assert panel.values() == decide.DEFAULTS
    text = as_text(panel.static())
    assert "First choice: fine-tune + retrieve, as sft-rag does it." in text
    assert "1 | fine-tune + retrieve | first | sft-rag" in text
    assert "Who can host a model? we, or an API that trains" in text
    panel.controls["host"].value = "nobody"
    assert "First choice: retrieve, as retrieve-and-quote" in as_text(panel.result.value)
    assert all(control.description for control in panel.controls.values())


def test_the_sheet_escapes_what_a_row_is_called():
    rows = BOARD + [row("sft") | {"model": "<script>", "created": "2026-02-01"}]
    assert "<script" not in lesson07.sheet({}, rows)


def test_deciding_loads_neither_torch_nor_widgets():
    import subprocess
    import sys

    code = "import sys, helpers.decide as d; d.recommend({}, []); print('torch' in sys.modules, 'ipywidgets' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said.stdout.split() == ["False", "False"], said.stderr
