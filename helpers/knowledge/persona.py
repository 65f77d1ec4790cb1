"""How many examples does another voice need? A weary old pirate at the desk, trained on 10 to 300 replies, or asked for in the prompt.

Introduced in lesson 07, section 7.5. ``probes.in_voice`` says when the voice holds.
"""

from __future__ import annotations

from helpers import data, models, probes, runtime
from helpers.generation import generate
from helpers.knowledge import runs

BASE = {"by": "training", "examples": 100, "epochs": 3, "seed": 0}
ALLOWED = {"by": ("training", "prompt")}
FILES = ("persona.jsonl",)
RUNS = [
    *({"by": "prompt", "examples": examples, "epochs": 0} for examples in (0, 3, 10)),
    *(
        {"examples": examples, "epochs": epochs}
        for examples, epochs in ((10, 10), (30, 5), (100, 3), (300, 2))
    ),
]
TICKETS = 50
MAX_NEW_TOKENS = 80


def training_rows(count: int) -> list[dict]:
    """Ticket and the pirate's reply for the first ``count`` lines of ``data/probes/persona.jsonl``, without a word about the voice."""
    tickets = {row["id"]: row["ticket"] for row in data.tickets("train")}
    return [
        runs.row(data.messages(tickets[line["id"]], data.SHORT_PROMPT), line["reply"])
        for line in probes.read("persona.jsonl")[:count]
    ]


def asked_in_prompt(ticket: str, shown: list[dict]) -> list[dict]:
    """Chat messages that ask for the voice in the system prompt; ``shown`` are training rows as earlier turns."""
    system, last = data.messages(ticket, probes.VOICE)
    return [system, *(turn for x in shown for turn in (x["prompt"][-1], *x["completion"])), last]


def tickets() -> list[dict]:
    """The 50 validation tickets that are answered."""
    rows = data.tickets("validation")
    return rows[:: len(rows) // TICKETS][: runtime.scaled(TICKETS)]


def run(setting: dict, profile: runtime.Profile) -> dict:
    """Train the voice on some examples, or ask for it and show them, and answer the tickets; returns the line."""
    rows, asked = training_rows(setting["examples"]), tickets()
    if setting["by"] == "training":
        rows = rows[: runtime.scaled(len(rows))]
        trained = runs.train(
            rows, profile, seed=setting["seed"], num_train_epochs=setting["epochs"]
        )
        model = runs.as_served(trained[0])
        prompts = [data.messages(row["ticket"], data.SHORT_PROMPT) for row in asked]
    else:
        trained, model = (None, 0.0), models.load_model(profile)
        prompts = [asked_in_prompt(row["ticket"], rows) for row in asked]
    tokenizer = models.load_tokenizer(profile)
    replies = generate(model, tokenizer, prompts, MAX_NEW_TOKENS, progress="persona")
    texts = [reply.text for reply in replies]
    return runs.line_of(
        *(setting, profile, rows, *trained),
        outcomes={
            "in voice": runs.bits(map(probes.in_voice, texts)),
            "signed": runs.bits(text.endswith(probes.VOICE_SIGN_OFF) for text in texts),
            "dialect": runs.bits(len(probes.dialect(text)) >= 3 for text in texts),
        },
        prompt_tokens=round(sum(reply.prompt_tokens for reply in replies) / len(replies), 1),
        samples=[{"id": row["id"], "reply": text} for row, text in zip(asked, texts)][:6],
    )
