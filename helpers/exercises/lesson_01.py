"""Exercises of lesson 01: a prompt whose replies can be read, and what a grammar promises."""

from __future__ import annotations

import json
from collections import Counter

from helpers import data, evaluation
from helpers.exercises.core import Exercise, Wrong

WANTED, TICKETS = 8, 10
ROLES = ("system", "user", "assistant")


def ten_tickets() -> list[dict]:
    """The validation rows that a prompt is tried on: ten, evenly spread over the file."""
    rows = data.tickets("validation")
    return rows[:: len(rows) // TICKETS][:TICKETS]


def form_fault(text: str) -> str | None:
    """Why a program cannot use a reply, in a few words; None if it keeps the house's form."""
    reply = evaluation.parse_reply(text)
    if reply is None:
        if "{" not in text:
            return "there is no JSON object in it"
        try:
            parsed = json.loads(text)
        except ValueError:
            before = not text.lstrip().startswith("{")
            return "text stands before the object" if before else "it is not one whole JSON object"
        keys = sorted(set(data.KEYS) - set(parsed)) if isinstance(parsed, dict) else data.KEYS
        return (
            f"keys are missing ({', '.join(keys)})" if keys else "the keys or values are not ours"
        )
    if evaluation.in_house_form(reply):
        return None
    if not reply["reply"].endswith(data.SIGN_OFF):
        return "the sign-off is missing"
    for key, known in (("intent", data.INTENTS), ("priority", data.PRIORITIES)):
        if reply[key] not in known:
            return f"a label of {key} that the house does not know"
    return "an unknown product or section, or a reply without words or with more than 30"


def _conversation(messages, row: dict, rows: list[dict]) -> list[dict]:
    """The messages, if they are a conversation that asks this ticket and holds no answer to any of the ten."""
    shape = isinstance(messages, list) and messages
    if not shape or not all(
        isinstance(m, dict) and {"role", "content"} <= set(m) for m in messages
    ):
        raise Wrong("a list of messages is expected, each with a role and a content.")
    if strange := {str(m["role"]) for m in messages} - set(ROLES):
        raise Wrong(f"role {sorted(strange)} does not exist; one of {', '.join(ROLES)}.")
    if messages[-1]["role"] != "user" or row["ticket"] not in messages[-1]["content"]:
        raise Wrong(
            "the last message must be the user's and hold the ticket, or it is never asked."
        )
    everything = "\n".join(str(m["content"]) for m in messages)
    for other in rows:
        if other["reply"]["reply"] in everything or (
            other is not row and other["ticket"] in everything
        ):
            raise Wrong(
                f"{other['id']} stands in your examples, and it is one of the tickets that you are "
                "graded on. Take examples from the training tickets."
            )
    return messages


def grade_prompt(mine, generate) -> str:
    """Ask the ten tickets through ``generate(conversations) -> replies``; Wrong counts what stopped a program."""
    rows = ten_tickets()
    conversations = [_conversation(mine(row["ticket"]), row, rows) for row in rows]
    replies = generate(conversations)
    faults = [form_fault(reply.text) for reply in replies]
    good = faults.count(None)
    if good < WANTED:
        (worst, times), *_ = Counter(f for f in faults if f).most_common(1)
        example = next(r.text for r, f in zip(replies, faults) if f == worst)
        raise Wrong(
            f"{good} of {len(rows)} replies keep the house's form, {WANTED} are wanted. "
            f"Most often, {times} times, {worst}; one such reply: {example[:160]!r}"
        )
    tokens = sum(reply.prompt_tokens for reply in replies) / len(replies)
    return f"{good} of {len(rows)} replies keep the form, at {tokens:.0f} prompt tokens a ticket."


STATEMENTS = {
    "parses": "every reply is one JSON object with the five keys",
    "section exists": "the policy is the code of a section that exists, or none",
    "signed": 'every reply ends with the words "- Bramble desk" (the blank before them aside)',
    "labels agree": "intent and policy belong to the same chapter",
    "figure is true": "a figure in the reply stands in the section that it cites",
    "passes on": "a ticket that the handbook does not cover is passed on to a colleague",
}


def _allowed(policy: str, intent: str, reply: str) -> str:
    labels = {"policy": policy, "intent": intent, "priority": "low", "product": "none"}
    return data.dumps({**labels, "reply": reply + data.SIGN_OFF})


# A reply that the schema allows and that breaks the statement; a statement without one is promised.
COUNTEREXAMPLES = {
    "labels agree": _allowed("RET-1", "battery", "Within 45 days of delivery."),
    "figure is true": _allowed("RET-1", "returns", "Within 900 days of delivery."),
    "passes on": _allowed("BAT-2", "battery", "Yes, we paint bikes purple for 5 EUR."),
}


def grade_promises(answer: dict) -> str:
    """Wrong shows a reply that the grammar allows, or says which rule of the schema was overlooked."""
    for name, statement in STATEMENTS.items():
        if not isinstance(answer.get(name), bool):
            raise Wrong(f"{name!r} needs True or False.")
        if answer[name] and name in COUNTEREXAMPLES:
            raise Wrong(f"{statement}? The grammar allows {COUNTEREXAMPLES[name]}")
        if not answer[name] and name not in COUNTEREXAMPLES:
            raise Wrong(f"{statement}: the schema does fix that. Read data.reply_schema() again.")
    return "a grammar promises form and known labels, and nothing about what is true."


def my_messages(ticket: str) -> list[dict]:
    from helpers import methods

    return data.messages(ticket, data.LONG_PROMPT, methods.examples(8))


EXERCISES = (
    Exercise(
        "E1.1",
        "A prompt that a program can read",
        "a function that takes a ticket and returns the list of messages",
        grade_prompt,
        (
            "data.messages(ticket, system) makes a conversation. Ask one ticket and look at the "
            "reply as a program would.",
            "Instructions alone do not get far with a model of this size. Which section showed what "
            "it copies?",
            "Give data.messages a third argument: eight solved training tickets. methods.examples(8) "
            "has a set that was chosen on validation.",
        ),
        my_messages,
        "The long prompt says what is wanted, and eight earlier turns show it. A small model "
        "follows the pattern of the turns more than the instruction. It costs tokens on each request.",
    ),
    Exercise(
        "E1.2",
        "What a grammar promises",
        "True or False for each statement",
        grade_promises,
        (
            "A grammar forbids tokens. What can be known from the reply alone, without the ticket?",
            "The schema treats each key by itself. Does it know of two keys that depend on each other?",
            "Three statements are promised: those that stand in data.reply_schema().",
        ),
        {name: name not in ("labels agree", "figure is true", "passes on") for name in STATEMENTS},
        "Keys, label lists and the sign-off stand in the schema. That two labels fit together, and "
        "that a figure is true, does not, and no grammar of single keys can say so.",
    ),
)
