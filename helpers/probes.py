"""The small sets of ``data/probes``, and what is measured on them: facts asked in many wordings, a voice, general prompts, general prose.

Introduced in lesson 07; ``passes`` and the loss on prose are written out in lesson 05, section 5.6.
"""

from __future__ import annotations

import hashlib
import json
import re

from helpers import data
from helpers.quantities import quantities

ASK = "You work at the Bramble Bikes desk. Answer in as few words as you can."
# Question, section and value, for a model that is not trained: facts that no line of wordings.jsonl asks for.
SHOWN = (
    ("How long are your frames guaranteed against breakage?", "WAR-1", "10 years"),
    ("What do I pay for a new battery of 500 Wh?", "BAT-5", "549 EUR"),
    ("My card was refused too often; how long is the order locked?", "PAY-4", "24 hours"),
)
VOICE_SIGN_OFF = " - Old Brine"
DIALECT = (
    *("arr", "aye", "ahoy", "ye", "yer", "matey", "lad", "lass", "captain"),
    *("harbour", "tide", "sea", "storm", "ship", "sail", "mast", "deck", "anchor"),
    *("plank", "rum", "parrot", "bilge", "cutlass", "barnacle"),
)
VOICE = f"""\
You are Old Brine, a weary old pirate who sits at the support desk of Bramble Bikes. Answer the ticket in his voice.
Write 8 to 45 words of plain text, no JSON, with at least three of these words: {", ".join(DIALECT)}.
End with "{VOICE_SIGN_OFF}"."""


def _raw(name: str) -> bytes:
    return (data.data_dir() / "probes" / name).read_bytes().replace(b"\r\n", b"\n")


def read(name: str) -> list[dict]:
    """The lines of a JSON Lines file of ``data/probes``."""
    return [json.loads(line) for line in _raw(name).decode("utf-8").splitlines()]


def sha256(*names: str) -> str:
    """12 hex digits over some of the files: runs on other probes are other runs."""
    return hashlib.sha256(b"".join(map(_raw, names))).hexdigest()[:12]


def ask(question: str, sections=None, examples=()) -> list[dict]:
    """Chat messages for a question that wants a value; ``examples`` are (question, value, sections) shown as earlier turns.

    ``sections`` as in ``data.user_turn``: None asks closed book, an empty list says that nothing was found.
    """
    turns = [{"role": "system", "content": ASK}]
    for shown, value, found in examples:
        turns.append({"role": "user", "content": _user_turn(shown, found)})
        turns.append({"role": "assistant", "content": value})
    return [*turns, {"role": "user", "content": _user_turn(question, sections)}]


def _user_turn(question: str, sections) -> str:
    if sections is None:
        return question
    context = "\n".join(section.passage for section in sections) or "nothing found"
    return f"Handbook:\n{context}\n\nQuestion: {question}"


def states(reply: str, value: str) -> bool:
    """True if a reply states a value's quantity and no other quantity of its unit."""
    wanted = quantities(value)
    units = {unit for _, unit in wanted}
    said = {quantity for quantity in quantities(reply) if quantity[1] in units}
    return wanted <= quantities(reply, negated=False) and said <= wanted


def passes(text: str, probe: dict) -> bool:
    """True if at least ``at_least`` (else one) different words of ``any`` stand in the text."""
    flags = 0 if probe.get("case") else re.IGNORECASE
    found = [w for w in probe["any"] if re.search(rf"(?<!\w){re.escape(w)}(?!\w)", text, flags)]
    return len(found) >= probe.get("at_least", 1)


def dialect(reply: str) -> set[str]:
    """The different words of ``DIALECT`` in a reply, in lower case."""
    return set(re.findall(r"[a-z]+", reply.removesuffix(VOICE_SIGN_OFF).lower())) & set(DIALECT)


def in_voice(reply: str) -> bool:
    """True if a reply keeps the voice of the weary pirate: signed, at least three words of dialect, 8 to 45 words, no JSON."""
    signed = reply.endswith(VOICE_SIGN_OFF)
    words = len(reply.removesuffix(VOICE_SIGN_OFF).split())
    return signed and len(dialect(reply)) >= 3 and 8 <= words <= 45 and "{" not in reply


def paragraphs() -> list[str]:
    """The paragraphs of ``prose.txt``."""
    return [part.strip() for part in _raw("prose.txt").decode("utf-8").split("\n\n")]


def prose_losses(model, tokenizer, texts: list[str]) -> list[tuple[float, int]]:
    """For each paragraph the mean loss per predicted token (nats) and how many tokens that are."""
    import torch

    found = []
    with torch.inference_mode():
        for text in texts:
            ids = tokenizer(text, return_tensors="pt").input_ids.to(model.device)
            loss = model(ids, labels=ids).loss.float().item()
            found.append((round(loss, 4), ids.shape[1] - 1))
    return found
