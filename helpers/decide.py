"""Prompt, retrieve, fine-tune, both, or none: nine answers and the scoreboard's rows in, a reasoned order out.

Introduced in lesson 07. There are no weights and no points, only three steps that can be read here: ``obstacles`` strikes out what an answer
forbids, ``rank`` puts what is left in the board's order and takes the simpler where two rows' intervals overlap, and ``CLAIMS`` are held against the
board, whether they come out or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from helpers import data
from helpers.scoreboard import with_interval

# Question -> (its words, the answers there are). Numbers are upper limits or amounts.
QUESTIONS = {
    "documents": ("Do the answers stand in documents of yours?", ("yes", "no")),
    "page": ("May a customer be sent the page itself?", ("no, a reply says what was asked", "yes")),
    "changes": ("How often do these facts change?", ("each week", "seldom or never")),
    "form": ("Must every reply have one exact form (fields, labels, a sign-off)?", ("yes", "no")),
    "examples": (
        "How many labelled examples do you have?",
        ("thousands", "hundreds", "tens", "none"),
    ),
    "requests": ("How many requests a month?", (100, 1_000, 10_000, 1_000_000)),
    "prompt tokens": ("How many tokens may a prompt cost?", (2_000, 1_000, 200)),
    "harm": (
        "May a wrong fact do harm?",
        ("no, or a person reads each reply", "yes, and nobody reads along"),
    ),
    "host": (
        "Who can host a model?",
        ("we, or an API that trains", "an API, as it comes", "nobody"),
    ),
}
# The answers of the Bramble desk.
DEFAULTS = {name: answers[0] for name, (_, answers) in QUESTIONS.items()} | {"requests": 1_000}

# Method -> (the option it is an example of, what it needs, the lesson that makes its row); the simpler first.
METHODS = {
    "keyword-rule": ("none", (), "00"),
    "minilm-and-paste": ("retrieve", ("documents", "page"), "02"),
    "retrieve-and-quote": ("retrieve", ("documents", "answered tickets"), "02"),
    "retrieve-and-paste": ("retrieve", ("documents", "page", "answered tickets"), "02"),
    "zero-shot": ("prompt", ("model",), "01"),
    "few-shot": ("prompt", ("model", "examples"), "01"),
    "few-shot-constrained": ("prompt", ("model", "examples"), "01"),
    "rag-few-shot": ("retrieve", ("model", "examples", "documents", "answered tickets"), "02"),
    "sft": ("fine-tune", ("model", "training"), "04"),
    "sft-rag": ("fine-tune + retrieve", ("model", "training", "documents"), "04"),
}
TAUGHT = {
    "training",
    "answered tickets",
}  # needs of a method that learned from thousands of tickets
# Option -> (the question that makes it matter, the claim, from this method, to that one, by this score)
CLAIMS = {
    "none": (),
    "prompt": (
        ("form", "A grammar brings the form", "few-shot", "few-shot-constrained", "format"),
    ),
    "retrieve": (
        ("documents", "Retrieval brings the right page", "few-shot", "rag-few-shot", "policy"),
        (
            "documents",
            "An untrained reader beats pasting",
            "retrieve-and-paste",
            "rag-few-shot",
            "facts",
        ),
    ),
    "fine-tune": (
        ("form", "Training beats a grammar", "few-shot-constrained", "sft", "format"),
        ("documents", "Training alone brings the facts", "few-shot", "sft", "facts"),
    ),
    "fine-tune + retrieve": (
        ("documents", "A tuned model needs the page, too", "sft", "sft-rag", "facts"),
        ("documents", "A reader gains by training", "rag-few-shot", "sft-rag", "resolved"),
        ("documents", "It beats pasting the page", "retrieve-and-paste", "sft-rag", "resolved"),
    ),
}
STANDINGS = ("first", "possible", "not measured", "ruled out")


@dataclass
class Advice:
    """An option, its standing (one of ``STANDINGS``), the method of the board that it rests on, and the reasons."""

    option: str
    standing: str
    method: str | None
    reasons: list[str]


def checked(answers: dict) -> dict:
    """The answers with defaults for those not given; raises ValueError for a question or an answer that does not exist."""
    if unknown := set(answers) - set(QUESTIONS):
        raise ValueError(f"no question {sorted(unknown)}; there are {', '.join(QUESTIONS)}")
    for name, answer in answers.items():
        if answer not in QUESTIONS[name][1]:
            allowed = "; ".join(map(str, QUESTIONS[name][1]))
            raise ValueError(f"{name} is {answer!r}; one of: {allowed}")
    return DEFAULTS | answers


def board_of(rows: list[dict]) -> dict[str, dict]:
    """The newest row of each known method, all of one model: that of the newest row that has a model."""
    rows = sorted((r for r in rows if r["method"] in METHODS), key=lambda row: row["created"])
    models = [row["model"] for row in rows if row["model"] != "none"]
    return {row["method"]: row for row in rows if row["model"] in ("none", *models[-1:])}


def score_that_counts(answers: dict) -> str:
    """Which score decides: the whole reply; its facts, where the form is free; its labels, where there is nothing to look up."""
    if answers["documents"] == "no":
        return "triage"
    return "resolved" if answers["form"] == "yes" else "facts"


def share(row: dict, score: str) -> str:
    """A score of a row in words: "83 % (78 to 87, n = 244)"."""
    value, low, high = (f"{100 * row[score][key]:.0f}" for key in ("value", "low", "high"))
    return f"{value} % ({low} to {high}, n = {row['n']})"


@cache
def fewer(method: str, has: str) -> str:
    """How many answered tickets a trained method, or its retriever, saw, beside how many the reader has."""
    seen, needs = len(data.tickets("train")), METHODS[method][1]
    trained = "training" in needs
    who, where = (method, "06, 6.8") if trained else (f"The retriever of {method}", "03, 3.8")
    return (
        f"{who} learned from {seen:,} tickets and you have {has} (what fewer teach: lesson {where})"
    )


def obstacles(method: str, answers: dict, row: dict | None) -> Iterator[str]:
    """Why a method cannot be chosen: a sentence for each answer that forbids it. ``row``: its row of the board, if any."""
    _, needs, _ = METHODS[method]
    if "documents" in needs and answers["documents"] == "no":
        yield f"{method} needs a page to retrieve, and there are no documents."
    if "page" in needs and answers["page"] != "yes":
        yield f"{method} sends what stands on the page, asked for or not."
    if "model" in needs and answers["host"] == "nobody":
        yield f"{method} needs a model, and nobody can host one."
    if "training" in needs and answers["host"] == "an API, as it comes":
        yield f"{method} needs its own adapter, which an API as it comes does not serve."
    if "examples" in needs and answers["examples"] == "none":
        yield f"{method} shows examples in its prompt, and there are none."
    if TAUGHT & set(needs) and answers["examples"] in ("none", "tens"):
        yield f"{fewer(method, answers['examples'])}: its row does not speak for you."
    weekly = answers["documents"] == "yes" and answers["changes"] == "each week"
    if weekly and "training" in needs and "documents" not in needs:
        took = (
            f" (the first took {row['train_seconds']:.0f} s)"
            if row and row["train_seconds"]
            else ""
        )
        yield f"{method} has its facts in the weights: a change is a training run each week{took}."
    if "model" in needs and answers["harm"].startswith("yes"):
        right = f"; right on the facts are {share(row, 'facts')}" if row else ""
        yield f"{method} writes its own sentences, and nobody reads along{right}."
    limit = answers["prompt tokens"]
    if row and (row["prompt_tokens"] or 0) > limit:
        yield f"{method} reads {row['prompt_tokens']:.0f} tokens a request, and {limit:,} are allowed."


def held(claim: str, old: str, new: str, score: str, board: dict) -> str:
    """A claim and what the board says of it. It holds if the intervals are apart; where they overlap, a paired test may still tell (lesson 05, 5.3)."""
    if missing := [name for name in (old, new) if name not in board]:
        lacks = " and ".join(f"{name} (lesson {METHODS[name][2]} makes it)" for name in missing)
        return f"{claim}? Your board has no row of {lacks}."
    verdict = "not shown, the intervals overlap"
    if board[new][score]["low"] > board[old][score]["high"]:
        verdict = "yes"
    elif board[new][score]["high"] < board[old][score]["low"]:
        verdict = "YOUR BOARD SAYS NO"
    was, now = share(board[old], score), share(board[new], score)
    return f"{claim}? {verdict}: {score} {was} with {old}, {now} with {new}."


def rank(methods: list[str], board: dict, score: str) -> list[str]:
    """Methods from the first choice down: again and again the simplest of those whose interval reaches that of the highest."""
    left, order = [name for name in METHODS if name in methods], []
    while left:
        best = max(left, key=lambda name: board[name][score]["value"])
        near = [n for n in left if board[n][score]["high"] >= board[best][score]["low"]]
        order.append(near[0])
        left.remove(near[0])
    return order


def saved_at_least_and_most(row: dict, other: dict) -> tuple[float, float]:
    """Seconds a reply of ``row`` saves over ``other``, by the near and the far ends of both medians' intervals; (0, 0) where one has none."""
    mine, theirs = (r.get("intervals", {}).get("latency_p50_s") for r in (row, other))
    return (theirs[0] - mine[1], theirs[1] - mine[0]) if mine and theirs else (0.0, 0.0)


def price(method: str, answers: dict, board: dict) -> Iterator[str]:
    """What a method reads in a month, and after how many requests its training seconds are earned back."""
    row, month = board[method], answers["requests"]
    if row["prompt_tokens"] and row["latency_p50_s"]:
        read, seconds = row["prompt_tokens"], with_interval(row, "latency_p50_s")
        total = f"{read * month:,.0f} tokens for {month:,} requests a month"
        yield f"{method} reads {read:.0f} tokens a request ({total}); one takes {seconds} seconds."
    other = {"sft": "few-shot", "sft-rag": "rag-few-shot"}.get(method)
    if other in board and row["train_seconds"] and row["latency_p50_s"]:
        saved = board[other]["latency_p50_s"] - row["latency_p50_s"]
        least, most = saved_at_least_and_most(row, board[other])
        after = "no number of requests"
        if saved > 0:
            after = f"{row['train_seconds'] / saved:,.0f} requests"
        if least > 0:
            after += f" ({row['train_seconds'] / most:,.0f} to {row['train_seconds'] / least:,.0f})"
        doubt = " (not shown: their intervals overlap)" if least <= 0 < most else ""
        if row.get("adapter") == "ready-made":  # its seconds were kept with it
            doubt += (
                "; a ready-made adapter was trained on a machine of its own, so the count is rough"
            )
        yield (
            f"Its {row['train_seconds']:.0f} s of training are earned back in computing time by {after}: a reply takes "
            f"{saved:.2f} s less than with {other}{doubt}."
        )
    if TAUGHT & set(METHODS[method][1]) and answers["examples"] == "hundreds":
        yield f"{fewer(method, answers['examples'])}: expect less than its row."


def reasons_for(option: str, method: str, answers: dict, board: dict) -> Iterator[str]:
    """What the board says for or against an option, by the method that is its best example there."""
    score = score_that_counts(answers)
    yield f"{method}: {score} {share(board[method], score)}."
    rule = board.get("keyword-rule")
    if option != "none" and rule and board[method][score]["high"] < rule[score]["low"]:
        yield f"The keyword rule is higher: {share(rule, score)}."
    elif option != "none" and rule and board[method][score]["low"] <= rule[score]["high"]:
        yield f"Not shown to beat the keyword rule: {share(rule, score)}."
    yield from price(method, answers, board)


def recommend(answers: dict, rows: list[dict]) -> list[Advice]:
    """All five options, the first choice on top, each with its reasons; ``rows`` are ``scoreboard.read()``'s.

    What is left open stands in the order of ``rank`` by ``score_that_counts``, then what has no row, then what is ruled out.
    Raises ValueError for an unknown question or answer.
    """
    answers, board = checked(answers), board_of(rows)
    score = score_that_counts(answers)
    against = {name: list(obstacles(name, answers, board.get(name))) for name in METHODS}
    order = rank([m for m in METHODS if m in board and not against[m]], board, score)
    advice = []
    for option in CLAIMS:
        mine = [name for name, (of, *_) in METHODS.items() if of == option]
        method = next((name for name in order if name in mine), None)
        unmeasured = [name for name in mine if not against[name] and name not in board]
        standing = "possible" if method else "not measured" if unmeasured else "ruled out"
        reasons = list(reasons_for(option, method, answers, board)) if method else []
        for name in unmeasured:
            reasons.append(f"Your board has no row of {name}: lesson {METHODS[name][2]} makes it.")
        for question, *claim in CLAIMS[option]:
            if standing != "ruled out" and answers[question] == "yes":
                reasons.append(held(*claim, board))
        reasons += [sentence for name in mine for sentence in against[name]]
        advice.append(Advice(option, standing, method, reasons))
    advice.sort(key=lambda a: order.index(a.method) if a.method else len(order))
    advice.sort(key=lambda a: STANDINGS.index(a.standing))
    if not (first := advice[0]).method:
        return advice
    first.standing = "first"
    for name in rank([m for m in board if against[m]], board, score):
        if board[name][score]["low"] > board[first.method][score]["high"]:
            why = "" if against[name][0] in first.reasons else f" {against[name][0]}"
            first.reasons.append(
                f"AGAINST THIS CHOICE: your board has {name} higher, {score} "
                f"{share(board[name], score)}, and your answers rule it out.{why}"
            )
    return advice


def in_short(advice: list[Advice]) -> str:
    """The first choice in a sentence, and what is not measured yet and could change it."""
    first, lacks = advice[0], [a.option for a in advice if a.standing == "not measured"]
    if not first.method:
        return f"No row of your board speaks for what your answers leave open: {', '.join(lacks)}."
    said = f"First choice: {first.option}, as {first.method} does it."
    return said + f" Not measured, so the order may change: {', '.join(lacks)}." * bool(lacks)
