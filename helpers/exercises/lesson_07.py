"""Exercises of lesson 07: when has a training paid, and what would you do in six cases."""

from __future__ import annotations

import math

from helpers.exercises.core import Exercise, Wrong

CHOICES = ("prompt", "retrieve", "fine-tune", "both", "none")
CASES = {
    "prices": "Customers ask in their own words what a part costs. The list changes every week. Any "
    "friendly sentence will do; 40 questions with answers are kept.",
    "form": "A clerk wants name, date and complaint of each letter as one exact JSON object. All of it "
    "stands in the letter. There are eight examples, and the service can decode with a grammar.",
    "voice": "A brand wants each reply in its own voice, which nobody can describe. 2,000 replies in it "
    "are kept, no facts are asked for, and a prompt may hold 200 tokens.",
    "manual": "A handbook of 400 pages that seldom changes, 20 questions with answers. A mechanic "
    "reads each reply, and wants the right page more than a fine sentence.",
    "desk": "Replies in one exact form with the house's labels, a sentence that says what was asked and "
    "no more, facts from a handbook that changes every Monday, 3,000 labelled tickets, a prompt of at "
    "most 500 tokens.",
    "menu": "A menu with three buttons: opening hours, address, phone. Each answer was approved word by "
    "word, and a wrong one is paid for.",
}
_BEST = {"prices": "retrieve", "form": "prompt", "voice": "fine-tune", "manual": "retrieve"}
_BEST |= {"desk": "both", "menu": "none"}
# (case, choice): what the choice overlooks, and the figure to look at: a column of the board, two methods
_OVERLOOKS = {
    ("prices", "prompt"): (
        "next week's prices stand in no prompt until something puts them there, and that is retrieval",
        ("policy", "few-shot", "rag-few-shot"),
    ),
    ("prices", "fine-tune"): (
        "the weights go on saying last week's price until the next training",
        ("train_seconds", "sft", "sft"),
    ),
    ("prices", "both"): (
        "no form has to be learned, and 40 examples are few to learn from (lesson 06, section 6.8)",
        ("train_seconds", "sft-rag", "sft-rag"),
    ),
    ("prices", "none"): (
        "customers use their own words, and a rule knows only those that its writer thought of",
        ("resolved", "keyword-rule", "minilm-and-paste"),
    ),
    ("form", "retrieve"): (
        "all that the reply says stands in the letter; a page more can only get in the way",
        ("format", "few-shot", "rag-few-shot"),
    ),
    ("form", "fine-tune"): (
        "eight examples are shown, not trained on, and a grammar holds a form without any training",
        ("format", "few-shot", "few-shot-constrained"),
    ),
    ("form", "both"): (
        "there is no page to bring, and there are eight examples to learn from",
        ("prompt_tokens", "sft", "sft-rag"),
    ),
    ("form", "none"): ("letters are free text: something has to read them", None),
    ("voice", "prompt"): (
        "what nobody can describe has to be shown, and examples do not go into 200 tokens",
        ("prompt_tokens", "few-shot", "sft"),
    ),
    ("voice", "retrieve"): (
        "a page says what to say, not how",
        ("format", "few-shot", "rag-few-shot"),
    ),
    ("voice", "both"): (
        "no facts are asked for: the page would only lengthen the prompt",
        ("prompt_tokens", "sft", "sft-rag"),
    ),
    ("voice", "none"): ("fixed sentences are not a voice: each reply has to be written", None),
    ("manual", "prompt"): (
        "400 pages do not go into a prompt, and without the page the model guesses",
        ("policy", "few-shot", "rag-few-shot"),
    ),
    ("manual", "fine-tune"): (
        "20 examples do not hold 400 pages; thousands brought few facts in half a pass, half in two (7.2)",
        ("facts", "sft", "sft-rag"),
    ),
    ("manual", "both"): (
        "20 examples are few to train on (lesson 06, section 6.8), and the page is all that is wanted",
        ("policy", "retrieve-and-paste", "sft-rag"),
    ),
    ("manual", "none"): (
        "somebody has to find the page among 400",
        ("policy", "keyword-rule", "minilm-and-paste"),
    ),
    ("desk", "prompt"): (
        "the facts are in no prompt, and the examples that show the form exceed 500 tokens",
        ("prompt_tokens", "few-shot", "sft-rag"),
    ),
    ("desk", "retrieve"): (
        "a prompted reader does not bring form and labels, and a pasted page says more than was asked",
        ("triage", "rag-few-shot", "sft-rag"),
    ),
    ("desk", "fine-tune"): (
        "Monday's facts are in no weights on Tuesday",
        ("facts", "sft", "sft-rag"),
    ),
    ("desk", "none"): (
        "a rule is where the board begins, and it does not read the handbook",
        ("resolved", "keyword-rule", "sft-rag"),
    ),
    ("menu", "prompt"): (
        "a model writes a new sentence each time, and these are approved word by word",
        ("latency_p50_s", "few-shot", "keyword-rule"),
    ),
    ("menu", "retrieve"): ("three buttons lead to three answers: there is nothing to search", None),
    ("menu", "fine-tune"): (
        "a training run to say three sentences, and no promise that it says them",
        ("latency_p50_s", "sft", "keyword-rule"),
    ),
    ("menu", "both"): (
        "two machines for what a table of three lines does",
        ("latency_p50_s", "sft-rag", "keyword-rule"),
    ),
}


def figure(what: tuple[str, str, str] | None, rows: list[dict] | None) -> str:
    """What the learner's board says, in a sentence; of a row that is missing, which lesson makes it."""
    from helpers import decide

    if what is None:
        return ""
    column, *methods = what
    board, said = decide.board_of(rows or []), []
    for name in dict.fromkeys(methods):
        if name not in board:
            said.append(f"no row of {name} yet (lesson {decide.METHODS[name][2]} makes it)")
        elif isinstance(board[name][column], dict):
            said.append(f"{name} {column} {decide.share(board[name], column)}")
        else:
            said.append(f"{name} {column} {board[name][column] or 0:.4g}")
    return f" Your board: {'; '.join(said)}."


def grade_cases(answer: dict, board: list[dict] | None = None) -> str:
    """Wrong says what a choice overlooks, with the row of the learner's board that it rests on."""
    for case, best in _BEST.items():
        pick = answer.get(case)
        if pick not in CHOICES:
            raise Wrong(f"{case}: {pick!r} is no choice; one of {', '.join(CHOICES)}.")
        if pick != best:
            cause, what = _OVERLOOKS[case, pick]
            raise Wrong(f"{case}: {pick}? {cause[0].upper()}{cause[1:]}.{figure(what, board)}")
    return "knowledge that changes is looked up, behaviour is learned, and some things are neither."


def _tokens(prompt: int, new: int) -> dict:
    return {"prompt_tokens": prompt, "new_tokens": new}


# (training, trainings, tuned, untuned, price in, price out, what a wrong number overlooks)
PAYMENTS = (
    (0.5, 1, _tokens(110, 60), _tokens(1500, 60), 0.1, 0.4, "prices are for a million tokens"),
    (0.5, 1, _tokens(100, 60), _tokens(1000, 20), 0.1, 0.4, "written tokens have a price, too"),
    (0.5, 4, _tokens(110, 60), _tokens(1500, 60), 0.1, 0.4, "it is trained more than once"),
    (0.5, 1, _tokens(100, 300), _tokens(900, 20), 0.1, 0.4, "a tuned ticket is the dearer one"),
    (0.5, 1, _tokens(100, 50), _tokens(100, 50), 0.1, 0.4, "nothing is saved, so it is never paid"),
)


def grade_break_even(mine) -> str:
    """Wrong gives the case, the right number and what another one overlooks."""
    for *case, overlooked in PAYMENTS:
        said, right = float(mine(*case)), break_even(*case)
        if said == right:
            continue
        training, trainings, tuned, untuned, *prices = case
        words = f"{trainings} x {training} of training, prices {prices}, {untuned} -> {tuned}"
        if right - 1 <= said < right and math.isfinite(right):
            raise Wrong(f"{words}: after {said:,.1f} tickets it has not paid yet; round up.")
        shown = "never (math.inf)" if math.isinf(right) else f"{right:,} tickets"
        raise Wrong(f"{words}: {shown}, not {said:,.6g}; {overlooked}.")
    return "what is saved a ticket has to pay for every training, and sometimes it never does."


def break_even(
    training: float, trainings: int, tuned: dict, untuned: dict, price_in: float, price_out: float
) -> float:
    read = untuned["prompt_tokens"] - tuned["prompt_tokens"]
    wrote = untuned["new_tokens"] - tuned["new_tokens"]
    saved = (read * price_in + wrote * price_out) / 1e6
    if saved <= 0:
        return math.inf
    return math.ceil(trainings * training / saved)


EXERCISES = (
    Exercise(
        "E7.1",
        "When has it paid?",
        "a function of training, trainings, two rows and two prices that returns a number of tickets",
        grade_break_even,
        (
            "What does a ticket cost untuned, and what tuned? Prices are for a million tokens, and a "
            "ticket is read and written.",
            "All trainings together, divided by what one ticket saves. And if a ticket saves nothing?",
            "math.ceil(trainings * training / saved), and math.inf where saved is 0 or less.",
        ),
        break_even,
        "A training is paid by the tokens that each ticket saves. A facts-in-the-weights model is "
        "trained again at every change of the facts, so its break-even moves away; a shorter prompt "
        "that makes the replies longer may never pay.",
    ),
    Exercise(
        "E7.2",
        "Six cases",
        "for each case one of prompt, retrieve, fine-tune, both, none",
        grade_cases,
        (
            "Ask two questions of each case: does the reply need knowledge that the model lacks, and "
            "does it need a behaviour that a prompt cannot bring?",
            "Then ask what there is: how many examples, how long a prompt, how often the facts change, "
            "and whether anything has to be written at all.",
            "Two cases want a page and no training, one a grammar, one has thousands of replies and "
            "no facts, one needs page and weights, and one needs no model.",
        ),
        _BEST,
        "Knowledge that changes belongs where it can be changed: in pages. Form and voice are "
        "behaviour: a grammar or a prompt if that is enough, training if there are examples. Where both "
        "are needed they add up. Where three fixed sentences do, no model is needed.",
    ),
)
