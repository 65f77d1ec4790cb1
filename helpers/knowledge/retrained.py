"""After Monday's update: what does a closed-book adapter know of the new values once it is trained again, on tickets that hold them?

Introduced in lesson 07, section 7.3. Reading the new page needs no training; this is what the other way costs and brings.
"""

from __future__ import annotations

import re

from helpers import data, evaluation, methods, models, runtime
from helpers.generation import generate
from helpers.knowledge import runs

# ``start``: "sft" goes on from the ready-made closed-book adapter, which holds last week's values; "base" begins anew
BASE = {"start": "sft", "rows": 3_276, "epochs": 0.5, "seed": 0}
ALLOWED: dict[str, tuple] = {"start": ("base", "sft")}
FILES = ()
RUNS: list[dict] = [{}]


def changes(row: dict) -> list[data.Fact]:
    """The facts that a ticket asks for and Monday changes; empty where last week's reply stays right."""
    policy, asks = row["reply"]["policy"], row["asks"]
    return [f for f in data.facts() if f.value_v2 and f.policy == policy and f.key in asks]


def updated(row: dict) -> dict:
    """A ticket row whose reply holds Monday's values; raises ValueError where last week's value does not stand in it literally."""
    reply = row["reply"]["reply"]
    for fact in changes(row):
        value = rf"(?<!\w){re.escape(fact.value)}(?!\w)"
        reply, found = re.subn(value, fact.value_v2, reply)
        if not found:
            raise ValueError(
                f"{row['id']}: {fact.value!r} ({fact.key}) does not stand in {reply!r}"
            )
    return row | {"reply": row["reply"] | {"reply": reply}}


def training_rows(count: int) -> list[dict]:
    """Lesson 04's first ``count`` closed-book rows with Monday's values."""
    return [
        runs.row(data.messages(row["ticket"], data.SHORT_PROMPT), data.dumps(updated(row)["reply"]))
        for row in data.tickets("train")[:count]
    ]


def run(setting: dict, profile: runtime.Profile) -> dict:
    """Train again, and ask the test tickets whose facts changed; returns the line, its outcomes by whose value the reply states."""
    rows = training_rows(runtime.scaled(setting["rows"]))
    trainer, seconds = runs.train(
        *(rows, profile),
        start=setting["start"],
        seed=setting["seed"],
        num_train_epochs=setting["epochs"],
    )
    tickets = runtime.thinned([row for row in data.tickets("test") if changes(row)])
    asked = methods.conversations(methods.METHODS["sft"], tickets)
    model, tokenizer = runs.as_served(trainer), models.load_tokenizer(profile)
    replies = generate(model, tokenizer, asked, methods.MAX_NEW_TOKENS, progress="Monday")
    texts = [reply.text for reply in replies]
    found = {
        name: runs.bits(s.facts for s in evaluation.score_all(texts, tickets, version))
        for name, version in (("Monday's value", 2), ("last week's value", 1))
    }
    samples = [{"id": row["id"], "reply": text} for row, text in zip(tickets[:3], texts)]
    return runs.line_of(setting, profile, rows, trainer, seconds, outcomes=found, samples=samples)
