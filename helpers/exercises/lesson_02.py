"""Exercises of lesson 02: how many sections to show, and what is stale after an update."""

from __future__ import annotations

import re

from helpers import statistics
from helpers.exercises.core import Exercise, Wrong


def _table(n: int, found: list[int], resolved: list[int]) -> list[dict]:
    rows = zip((1, 3, 5), found, resolved, (310, 520, 730))
    return [
        {"k": k, "n": n, "found": f, "resolved": r, "prompt_tokens": tokens}
        for k, f, r, tokens in rows
    ]


# Made-up measurements of four readers: (table, the k to pick, what another pick overlooks)
READERS = (
    (
        *(_table(240, [180, 220, 235], [120, 90, 60]), 1),
        "more sections are found in it, and this reader resolves fewer tickets: recall is a bound, "
        "not the score",
    ),
    (
        *(_table(240, [120, 200, 215], [70, 130, 128]), 3),
        "one section is cheap, and here it leaves out too many answers; five cost more and bring "
        "nothing over three",
    ),
    (
        *(_table(24, [19, 22, 23], [9, 10, 11]), 1),
        "with 24 tickets, one or two resolved more are within chance, and each section is paid for "
        "on every request",
    ),
    (
        *(_table(240, [190, 220, 230], [107, 130, 129]), 3),
        "that its interval overlaps the best one's is not enough; it must reach the best share itself",
    ),
)

CHANGED = {"45 days": "30 days", "60 EUR": "75 EUR"}
CONVERSATION = [
    {"role": "system", "content": "You are the Bramble desk. Web orders go back within 45 days."},
    {
        "role": "user",
        "content": "Handbook:\n[RET-1] Send it back within 30 days.\n\nTicket: till when?",
    },
    {"role": "assistant", "content": '{"reply": "You have 45 days. - Bramble desk"}'},
    {
        "role": "user",
        "content": "Handbook:\n[REP-7] We store a bike for 145 days.\n\nTicket: how long?",
    },
    {"role": "assistant", "content": '{"reply": "We store it for 145 days. - Bramble desk"}'},
    {
        "role": "user",
        "content": "Handbook:\n[RET-2] The fee is 60 EUR.\n\nTicket: what do you keep?",
    },
    {"role": "assistant", "content": '{"reply": "We keep 75 EUR. - Bramble desk"}'},
    {
        "role": "user",
        "content": "Handbook:\n[RET-2] The fee is 75 EUR.\n\nTicket: last year it was 60 EUR, and now?",
    },
]
_STALE = {
    0: "a fact was written into the system prompt, and nobody re-indexes that",
    2: "an example's answer still says last week's value, and a small model copies it",
    5: "this page was retrieved from the old index",
}
_FRESH = {
    3: "145 days is another value than 45 days: compare whole values",
    4: "145 days is another value than 45 days: compare whole values",
    7: "the old value stands in the customer's own words after 'Ticket:', which are not ours to change",
}


def grade_pick_k(mine) -> str:
    """Wrong shows the table and what the pick overlooks."""
    for table, right, overlooked in READERS:
        picked = mine(table)
        if picked not in (1, 3, 5):
            raise Wrong(f"pick_k returned {picked!r}; one of the k of the table, 1, 3 or 5.")
        if picked != right:
            lines = ", ".join(f"k={r['k']}: {r['resolved']} of {r['n']} resolved" for r in table)
            raise Wrong(f"k = {picked} for ({lines}): {overlooked}.")
    return "you pick by what the reader resolves, mind chance, and pay for no section in vain."


def grade_stale(mine) -> str:
    """Wrong names the turn that was overlooked or wrongly accused."""
    for places in (range(len(CONVERSATION)), (0, 3, 4, 5, 6, 7)):
        said = set(mine([CONVERSATION[i] for i in places], CHANGED))
        for here, i in enumerate(places):
            if i in _STALE and here not in said:
                raise Wrong(f"turn {here} of {len(places)} is stale: {_STALE[i]}.")
            if i not in _STALE and here in said:
                reason = _FRESH.get(i, "it holds no old value")
                raise Wrong(f"turn {here} of {len(places)} is not stale: {reason}.")
    return "pages, examples and the system prompt are all part of the knowledge base."


def pick_k(table: list[dict]) -> int:
    best = max(row["resolved"] / row["n"] for row in table)
    for row in sorted(table, key=lambda row: row["prompt_tokens"]):
        if statistics.wilson(row["resolved"], row["n"])[1] >= best:
            return row["k"]


def stale_turns(messages: list[dict], changed: dict[str, str]) -> list[int]:
    found = []
    for i, message in enumerate(messages):
        ours = message["content"].split("Ticket:")[0]
        if any(re.search(rf"(?<!\w){re.escape(old)}(?!\w)", ours) for old in changed):
            found.append(i)
    return found


EXERCISES = (
    Exercise(
        "E2.1",
        "Pick k",
        "a function that takes a table (a list of rows) and returns the k to use",
        grade_pick_k,
        (
            "Which column says what the desk gets? `found` only bounds it.",
            "A share of 24 tickets and one of 240 are not equally sure: statistics.wilson(resolved, n) "
            "gives both ends.",
            "Take the best share of resolved tickets. Of the rows whose high end reaches it, return "
            "the one with the fewest prompt tokens.",
        ),
        pick_k,
        "Recall rises with k by construction. The reader decides, chance forgives the small "
        "differences, and what is left is decided by the price of a request.",
    ),
    Exercise(
        "E2.2",
        "What is stale on Monday?",
        "a function that returns the places of the turns that still state an old value",
        grade_stale,
        (
            "Look at all roles, not at the pages only. Where else can a value stand?",
            "Two traps: a longer value that contains the old one, and words that are the customer's.",
            r'Cut each content at "Ticket:", then search with re.search(rf"(?<!\w){re.escape(old)}(?!\w)", ...).',
        ),
        stale_turns,
        "Re-indexing renews the pages. Examples and prompts are written by hand and renewed by hand, "
        "and what a customer says about last year is not a fault.",
    ),
)
