"""Exercises of lesson 00: when a score beats another, and which part of a reply is wrong."""

from __future__ import annotations

from helpers import data, evaluation, statistics
from helpers.exercises.core import Exercise, Wrong

# (right, tickets, rival's share, what is true, the mistake that an answer makes which says otherwise)
CASES = (
    (77, 244, 0.25, True, "77 of 244 does beat 25 %: even the low end of the interval is above it"),
    (
        *(60, 244, 0.25, False),
        "60 of 244 is below 25 %; only the high end of its interval is above. A claim needs the low end",
    ),
    (
        *(14, 40, 0.30, False),
        "14 of 40 is above 30 %, and its interval reaches far below: the share alone does not show it",
    ),
    (
        *(10, 10, 0.80, False),
        "10 of 10 does not beat 80 %. The formula without Wilson's care has no width at 100 %",
    ),
    (0, 0, 0.0, False, "no ticket at all proves nothing, against any rival"),
)

TICKET = {
    "id": "exercise-1",
    "ticket": "THIRD time I ask!!! Web shop order, Moss City, too big. Until when can it go back??",
    "facets": ["angry"],
    "asks": ["return_window"],
    "reply": {
        "policy": "RET-1",
        "intent": "returns",
        "priority": "normal",
        "product": "Moss City",
        "reply": "You can send it back within 45 days of delivery. - Bramble desk",
    },
}


def _reply(**changes) -> str:
    return data.dumps(TICKET["reply"] | changes)


REPLIES = {
    "A": _reply(reply="Take your time: 45 days from the day it reached you. - Bramble desk"),
    "B": _reply(priority="high"),
    "C": _reply(reply="Within 14 or 45 days, depending on where you bought it. - Bramble desk"),
    "D": "Here is the reply you asked for: " + _reply(),
    "E": _reply(reply="It can go back within 45 days of delivery."),
    "F": _reply(policy="RET-2"),
}
_MEANT = {
    "A": "the wording is free; form, labels and the figure are right",
    "B": "the priority follows from the matter, never from the tone",
    "C": "a wrong figure stands beside the right one, and the customer cannot know which holds",
    "D": "text around the object: no program can read it, so it falls at the first part",
    "E": "the sign-off is missing, which is a matter of form",
    "F": "everything is right but the section's code",
}


def first_fault(name: str) -> str:
    """The first part of the score that a reply of ``REPLIES`` fails, or "resolved"."""
    score = evaluation.score_reply(REPLIES[name], TICKET)
    return next((part for part in evaluation.SCORES[:-1] if not getattr(score, part)), "resolved")


def grade_beats(mine) -> str:
    """Wrong names the kind of claim that was believed, or not believed."""
    for right, n, rival, truth, mistake in CASES:
        if bool(mine(right, n, rival)) != truth:
            raise Wrong(f"beats({right}, {n}, {rival}) should be {truth}: {mistake}.")
    return "a score beats a fixed rival when even the low end of its interval is above it."


def grade_verdicts(answer: dict) -> str:
    """Wrong names the first reply that was judged otherwise than by the score."""
    known = (*evaluation.SCORES[:-1], "resolved")
    for name in REPLIES:
        if name not in answer:
            raise Wrong(f"reply {name} has no verdict; judge all of {', '.join(REPLIES)}.")
        if answer[name] not in known:
            raise Wrong(f"{answer[name]!r} for reply {name} is none of {', '.join(known)}.")
        if answer[name] != first_fault(name):
            raise Wrong(f"reply {name} is not a case of {answer[name]!r}: {_MEANT[name]}.")
    return "you score like the parser: first the form, then labels, section and figures."


def beats(right: int, n: int, rival: float) -> bool:
    low, high = statistics.wilson(right, n)
    return low > rival


EXERCISES = (
    Exercise(
        "E0.1",
        "Does it beat the rule?",
        "a function of right, n and rival that returns True or False",
        grade_beats,
        (
            "The share of right replies is one number. What did section 0.6 put beside it?",
            "statistics.wilson(right, n) gives both ends. Which of them must be above the rival?",
            "return True if the low end is above the rival, and False otherwise.",
        ),
        beats,
        "The low end is the least true share that would make this result unsurprising. If it is "
        "above the rival, the claim holds up; if only the share itself is, luck will do.",
    ),
    Exercise(
        "E0.2",
        "Judge six replies",
        "for each reply the first part of the score that it fails, or 'resolved'",
        grade_verdicts,
        (
            "Go through the parts in order: format, triage, product, policy, facts.",
            "A program reads the reply. It does not mind other words; it minds other labels, other "
            "figures and anything around the object.",
            "One is resolved. Two fail at format, and one each at triage, policy and facts.",
        ),
        {
            "A": "resolved",
            "B": "triage",
            "C": "facts",
            "D": "format",
            "E": "format",
            "F": "policy",
        },
        "The score falls at the first thing that somebody at the desk would have to mend.",
    ),
)
