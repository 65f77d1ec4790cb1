"""Does training add facts? Some are trained closed book in 1, 4 or 16 wordings, and asked as trained, reworded, and the other way round.

Introduced in lesson 07, section 7.2. Every fact is seen equally often, whatever the number of its wordings.
"""

from __future__ import annotations

from helpers import data, methods, models, probes, runtime
from helpers.generation import generate
from helpers.knowledge import runs
from helpers.quantities import quantities

BASE = {"wordings": 4, "retrieved": False, "seed": 0}
ALLOWED = {"wordings": (0, 1, 4, 16)}
FILES = ("wordings.jsonl",)
RUNS = [
    *({"wordings": 0, "retrieved": retrieved} for retrieved in (False, True)),
    *({"wordings": wordings, "seed": seed} for seed in (0, 1, 2) for wordings in (1, 4, 16)),
]
PRESENTATIONS = 32  # of each fact, over all its wordings
MAX_NEW_TOKENS = 24


def sets() -> tuple[list[dict], list[dict]]:
    """The facts to train on and those held out, of ``data/probes/wordings.jsonl``."""
    lines = probes.read("wordings.jsonl")
    both = [[x for x in lines if x["role"] == role] for role in ("trained", "held-out")]
    trained, held_out = (facts[: runtime.scaled(len(facts))] for facts in both)
    return trained, held_out


def training_rows(wordings: int) -> list[dict]:
    """Question and value of each trained fact in its first ``wordings`` wordings, closed book."""
    return [
        runs.row(probes.ask(question), fact["value"])
        for fact in sets()[0]
        for question in fact["train"][:wordings]
    ]


def epochs(wordings: int) -> int:
    """How many epochs show each fact ``PRESENTATIONS`` times."""
    return max(1, runtime.scaled(PRESENTATIONS) // wordings)


def questions(wordings: int) -> list[dict]:
    """What a model is asked: trained facts as ``seen`` (4 wordings at most), ``reworded`` and ``related``, and the ``held-out`` ones."""
    trained, held_out = sets()
    seen = slice(min(max(wordings, 1), 4))
    groups = {
        "seen": [(fact, question) for fact in trained for question in fact["train"][seen]],
        "reworded": [(fact, question) for fact in trained for question in fact["reworded"]],
        "held-out": [(fact, question) for fact in held_out for question in fact["reworded"]],
    }
    found = [
        {"group": group, "question": question, "value": fact["value"]}
        for group, pairs in groups.items()
        for fact, question in pairs
    ]
    return found + [{"group": "related", **r} for fact in trained for r in fact["related"]]


def right(asked: dict, reply: str) -> bool:
    """True if a reply answers a question: its value and no other of that unit, or, for a related one, any of its answers."""
    if asked["group"] == "related":
        return probes.passes(reply, asked)
    return probes.states(reply, asked["value"])


def answers(
    model, tokenizer, asked: list[dict], examples: bool = False, retrieved: bool = False
) -> list[str]:
    """The replies to ``questions``, closed book or with the section that the retriever finds; ``examples`` shows three first."""
    sections = [None] * len(asked)
    if retrieved:
        sections = methods.contexts([{"ticket": one["question"]} for one in asked], 1)
    shown = [
        (question, value, [data.policies()[policy]] if retrieved else None)
        for question, policy, value in (probes.SHOWN if examples else ())
    ]
    conversations = [
        probes.ask(one["question"], found, shown) for one, found in zip(asked, sections)
    ]
    replies = generate(model, tokenizer, conversations, MAX_NEW_TOKENS, progress="questions")
    return [reply.text for reply in replies]


def outcomes(asked: list[dict], replies: list[str]) -> dict[str, str]:
    """Right or not by group, in the questions' order; ``invented``: whether a reply about a held-out fact states any figure."""
    groups = dict.fromkeys(one["group"] for one in asked)
    pairs = list(zip(asked, replies))
    found = {
        group: runs.bits(right(one, reply) for one, reply in pairs if one["group"] == group)
        for group in groups
    }
    held_out = [reply for one, reply in pairs if one["group"] == "held-out"]
    return found | {"invented": runs.bits(map(quantities, held_out))}


def run(setting: dict, profile: runtime.Profile) -> dict:
    """Train closed book on the facts in some wordings (none: three examples in the prompt instead), and ask; returns the line."""
    wordings, trained = setting["wordings"], (None, 0.0)
    rows = training_rows(wordings)
    if wordings:
        trained = runs.train(
            *(rows, profile),
            seed=setting["seed"],
            num_train_epochs=epochs(wordings),
            per_device_train_batch_size=8,
        )
    model = runs.as_served(trained[0]) if wordings else models.load_model(profile)
    asked = questions(wordings)
    tokenizer = models.load_tokenizer(profile)
    replies = answers(model, tokenizer, asked, not wordings, setting["retrieved"])
    samples = [one | {"reply": reply} for one, reply in zip(asked, replies)]
    return runs.line_of(
        *(setting, profile, rows, *trained),
        outcomes=outcomes(asked, replies),
        samples=samples[:: max(1, len(samples) // 24)],
    )
