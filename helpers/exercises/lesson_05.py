"""Exercises of lesson 05: what to ship, and when one method is really better."""

from __future__ import annotations

from helpers import statistics
from helpers.exercises.core import Exercise, Wrong


def _row(method: str, n: int, resolved: int, seconds: float, update: str, wrong: int) -> dict:
    names = ("method", "n", "resolved", "seconds", "on an update", "wrong figures")
    return dict(zip(names, (method, n, resolved, seconds, update, wrong)))


# A made-up scoreboard of another shop. `wrong figures` counts replies that state one.
BOARD = [
    _row("keyword-rule", 244, 61, 0.001, "write rules", 44),
    _row("retrieve-and-quote", 244, 136, 0.02, "index again", 2),
    _row("rag-few-shot", 244, 30, 3.5, "index again", 70),
    _row("sft", 244, 150, 1.2, "train again", 58),
    _row("sft-rag", 244, 190, 2.9, "index again", 12),
    _row("sft-rag, 5 sections", 244, 193, 6.1, "index again", 12),
    _row("sft-rag, new prompt", 20, 18, 2.9, "index again", 1),
]
# What a shop needs: (in words, seconds at most, updates it can do, wrong figures in 100 at most, what to ship)
SHOPS = {
    "monday": (
        "the handbook changes every Monday, a clerk reads each reply, ten seconds are fine",
        *(10.0, ("index again",), 100, "sft-rag"),
    ),
    "instant": (
        "a chat window answers within 0.1 s, nobody reads along, a wrong figure is paid by the shop",
        *(0.1, ("index again", "write rules"), 2, "retrieve-and-quote"),
    ),
    "sealed": (
        "a device at the counter: no search index fits on it, the handbook never changes, 2 s are fine",
        *(2.0, ("train again", "write rules"), 100, "sft"),
    ),
}


def _pairs(both: int, only_a: int, only_b: int, neither: int) -> tuple[list[bool], list[bool]]:
    a = [True] * both + [True] * only_a + [False] * only_b + [False] * neither
    b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    return a, b


# (flags of both, questions asked, whether a is better, what another verdict overlooks)
COMPARISONS = (
    (
        *(_pairs(124, 24, 4, 92), 1, True),
        "their intervals overlap, but on the tickets where they differ a wins almost always",
    ),
    (
        *(_pairs(124, 12, 8, 100), 1, False),
        "a has the higher share, and a fair coin splits the few differences like this often enough",
    ),
    (*(_pairs(124, 4, 24, 92), 1, False), "the difference is real, and b is the better one"),
    (*(_pairs(100, 17, 5, 122), 1, True), "asked alone, a difference like this is rarely luck"),
    (
        *(_pairs(100, 17, 5, 122), 8, False),
        "among eight questions one comes out like this by luck often enough: divide 0.05 by them",
    ),
)


def grade_ship(answer: dict) -> str:
    """Wrong says which need of the shop the method breaks, or what would serve it better."""
    board = {row["method"]: row for row in BOARD}
    for shop, (_, seconds, updates, wrong, best) in SHOPS.items():
        pick = answer.get(shop)
        if pick not in board:
            raise Wrong(f"{shop}: {pick!r} is no method of the board; one of {', '.join(board)}.")
        row, right = board[pick], board[best]
        share = row["resolved"] / row["n"]
        if row["seconds"] > seconds:
            raise Wrong(f"{shop}: {pick} takes {row['seconds']} s, and {seconds} s are allowed.")
        if row["on an update"] not in updates:
            raise Wrong(f"{shop}: {pick} means {row['on an update']!r}, which this shop cannot do.")
        if 100 * row["wrong figures"] / row["n"] > wrong:
            figures = f"{row['wrong figures']} of {row['n']} replies of {pick} state a wrong figure"
            raise Wrong(f"{shop}: {figures}, and nobody reads along.")
        low, high = statistics.wilson(row["resolved"], row["n"])
        if row["n"] < right["n"]:
            raise Wrong(
                f"{shop}: {pick} was tried on {row['n']} tickets. Its interval is {low:.0%} to "
                f"{high:.0%}, and that of {best} lies within it: not shown to be better."
            )
        if pick != best and share > right["resolved"] / right["n"]:
            raise Wrong(
                f"{shop}: {row['resolved'] - right['resolved']} tickets more of {row['n']} are within "
                f"chance, and {pick} takes {row['seconds']} s where {best} takes {right['seconds']} s."
            )
        if pick != best:
            raise Wrong(f"{shop}: {pick} resolves {share:.0%}; another row that fits does better.")
    return (
        "first what a shop cannot do without, then what is resolved, then chance, then the price."
    )


def grade_better(mine) -> str:
    """Wrong gives the counts of a comparison and what the verdict overlooks."""
    for (a, b), questions, truth, overlooked in COMPARISONS:
        if bool(mine(a, b, questions)) != truth:
            test = statistics.mcnemar(a, b)
            counts = f"{test['only_a']} tickets only by a, {test['only_b']} only by b"
            raise Wrong(f"{counts}, {questions} asked: should be {truth}; {overlooked}.")
    return "you look at the tickets that differ, at the direction, and at how often you asked."


def really_better(a: list[bool], b: list[bool], questions: int) -> bool:
    test = statistics.mcnemar(a, b)
    return test["difference"] > 0 and test["p"] < 0.05 / questions


EXERCISES = (
    Exercise(
        "E5.1",
        "What would you ship?",
        "for each shop the name of a method",
        grade_ship,
        (
            "Strike out the rows that break a need of the shop, before you look at the score.",
            "Of the rows that are left the highest need not be the best: how many tickets stand behind "
            "it, and what does it cost?",
            "monday: two rows resolve about as much, one takes half the time. instant: who never makes "
            "up a figure? sealed: whose knowledge is in its weights?",
        ),
        {"monday": "sft-rag", "instant": "retrieve-and-quote", "sealed": "sft"},
        "No row is the best for all three. The score decides only among methods that a shop can run, "
        "keep up to date and answer for.",
    ),
    Exercise(
        "E5.2",
        "Really better?",
        "a function of two lists of flags and a number of questions that returns True or False",
        grade_better,
        (
            "Both methods answered the same tickets. Which tickets can tell them apart?",
            "statistics.mcnemar(a, b) gives p and the difference. A small p has no direction.",
            "True if the difference is above 0 and p is below 0.05 / questions.",
        ),
        really_better,
        "McNemar's test counts only tickets where the two differ. The direction is asked apart, and "
        "Bonferroni's division pays for every further question.",
    ),
)
