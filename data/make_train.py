"""Fill the hand-written phrasings (``tickets/phrasings.jsonl``) in to ``tickets/train.jsonl``.

A phrasing holds ``{product}`` and ``{order}`` where a customer would name them. This program puts them in, adds a
greeting, a closing or a typing slip to some, and numbers the rows. It draws from a seeded generator for each phrasing
alone, so a new phrasing changes no other row. Run: ``python -m data.make_train``
"""

from __future__ import annotations

import json
import os
import random
import re
from pathlib import Path

from helpers.data import PRODUCTS, handbook, priority_of

HERE = Path(__file__).resolve().parent / "tickets"
GREETINGS = (
    "Hi, ",
    "Hello, ",
    "hey, ",
    "Hi there, ",
    "Good morning, ",
    "Dear Bramble team, ",
    "Hello again, ",
)
CLOSINGS = (
    " Thanks!",
    " Thank you.",
    " thx",
    " Cheers",
    " Best regards",
    " Many thanks in advance.",
    " Please advise.",
)
CARGO_CHANGES_THE_ANSWER = {"REN-2", "REP-2", "SAF-5", "REN-3", "DEL-2"}
NOT_FOR_CHILDREN = {"ORD-5", "REN-1", "WAR-7"}


def slip(text: str, rng: random.Random) -> str:
    """One typing slip: two letters swapped, or one left out, inside a longer word."""
    words = [m for m in re.finditer(r"[a-z]{5,}", text)]
    if not words:
        return text
    word = rng.choice(words)
    i = rng.randrange(word.start() + 1, word.end() - 2)
    middle = text[i + 1] + text[i] if rng.random() < 0.5 else text[i + 1]
    return text[:i] + middle + text[i + 2 :]


def misspelt(product: str, rng: random.Random) -> str:
    """A product as a hasty customer types it: a letter swapped, left out, doubled, or written as it sounds."""
    sounds = {"C": "K", "c": "k", "ph": "f", "ss": "s", "st": "s", "ni": "ny", "ee": "e"}
    name = product.lower() if rng.random() < 0.6 else product
    spots = [m.start() for m in re.finditer(r"(?<=[A-Za-z])[a-z](?=[a-z])", name)]
    i, kind = rng.choice(spots), rng.random()
    heard = [(old, new) for old, new in sounds.items() if old in name]
    if heard and kind < 0.3:
        return name.replace(*rng.choice(heard), 1)
    if kind < 0.55:
        return name[:i] + name[i + 1 :]
    if kind < 0.8:
        return name[:i] + name[i + 1] + name[i] + name[i + 2 :]
    return name[:i] + name[i] + name[i:]


def fill(phrasing: dict, number: int, intents: dict[str, str]) -> dict:
    """One training row from one phrasing."""
    rng = random.Random(phrasing["ticket"])
    policy, ticket, reply = phrasing["policy"], phrasing["ticket"], phrasing["reply"]
    products = [
        product
        for product in PRODUCTS[:-1]
        if not (product == "Heath Cargo" and policy in CARGO_CHANGES_THE_ANSWER)
        and not (product == "Sorrel Kids" and policy in NOT_FOR_CHILDREN)
    ]
    product = "Heath Cargo" if "heath cargo" in ticket.lower() else "none"
    if rng.random() < 0.12:
        ticket = slip(ticket, rng)
    if "{product}" in phrasing["ticket"]:
        ticket = ticket if "{product}" in ticket else phrasing["ticket"]
        product = rng.choice(products)
        said = product.lower() if ticket == ticket.lower().replace("{PRODUCT}", "") else product
        if rng.random() < 0.1:
            said = said.replace(" ", "").lower()
        own = random.Random(phrasing["ticket"] + product)
        if own.random() < 0.15:
            said = misspelt(said, own)
        if said[0] in "aA":
            ticket = re.sub(r"\b([Aa]) (?=\{product\})", r"\1n ", ticket)
        ticket = ticket.replace("{product}", said)
        reply = re.sub(r"\ba (?=\{product\})", "an " if product[0] == "A" else "a ", reply)
        reply = reply.replace("{product}", product)
    order = str(rng.randrange(10_000, 99_999))
    ticket = ticket.replace("{order}", order if rng.random() < 0.5 else f"BB-{order}")
    known = ("hi", "hey", "hello", "dear", "good", "yo", "sir")
    if rng.random() < 0.22 and not ticket.lower().startswith(known):
        ticket = rng.choice(GREETINGS) + ticket
    if rng.random() < 0.18:
        ticket = (
            ticket.rstrip() + ("" if ticket.rstrip()[-1] in ".!?" else ".") + rng.choice(CLOSINGS)
        )
    words = len(ticket.split())
    facets = [
        name
        for name, holds in {
            "terse": words < 10,
            "rambling": words > 35,
            "no-product": product == "none",
            "two-facts": len(phrasing["asks"]) == 2,
            "outside": policy == "none",
        }.items()
        if holds
    ]
    return {
        "id": f"train-{number:04d}",
        "ticket": ticket,
        "facets": facets,
        "asks": phrasing["asks"],
        "reply": {
            "intent": intents.get(policy, "other"),
            "priority": priority_of(policy),
            "product": product,
            "policy": policy,
            "reply": reply,
        },
    }


def make() -> str:
    """The text of ``train.jsonl``, in a fixed shuffled order."""
    lines = (HERE / "phrasings.jsonl").read_text(encoding="utf-8").splitlines()
    intents = {section.policy: section.intent for section in handbook()}
    rows = [fill(json.loads(line), number, intents) for number, line in enumerate(lines, 1)]
    random.Random(7).shuffle(rows)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


if __name__ == "__main__":
    part = HERE / "train.jsonl.part"
    part.write_text(make(), encoding="utf-8", newline="\n")
    os.replace(part, HERE / "train.jsonl")
    print(f"wrote {sum(1 for _ in open(HERE / 'train.jsonl', encoding='utf-8'))} rows")
