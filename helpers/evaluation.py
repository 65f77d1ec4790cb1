"""Read a reply and score it field by field.

Introduced in lesson 00, section 0.6. One parser serves every method; what does not parse is wrong on every field. How sure a
figure is says ``statistics``. ``python -m helpers.evaluation --help`` scores any model or adapter on any ticket file.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache

from helpers.data import (
    INTENTS,
    KEYS,
    MAX_WORDS,
    PRIORITIES,
    PRODUCTS,
    SIGN_OFF,
    facts,
    handbook,
    policies,
    word_count,
)
from helpers.quantities import negated, phones, plain, quantities
from helpers.statistics import rate

SCORES = ("format", "triage", "product", "policy", "facts", "resolved")
_MAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+")


@dataclass(frozen=True)
class Score:
    """Which parts of one reply are right; ``resolved`` is all of them."""

    format: bool = False
    triage: bool = False
    product: bool = False
    policy: bool = False
    facts: bool = False

    @property
    def resolved(self) -> bool:
        return self.format and self.triage and self.product and self.policy and self.facts


def _no_duplicates(pairs: list[tuple]) -> dict:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise ValueError("duplicate key")
    return dict(pairs)


def parse_reply(text: str) -> dict | None:
    """The reply's five texts by key, or None if it is anything but one JSON object with exactly the five keys.

    Nothing may stand around the object, no key twice, and every value is text. Whether it keeps the house's form is
    asked apart, by ``in_house_form``.
    """
    try:
        reply = json.loads(text.strip(), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError):
        return None
    if not isinstance(reply, dict) or set(reply) != set(KEYS):
        return None
    return reply if all(isinstance(value, str) for value in reply.values()) else None


def in_house_form(reply: dict) -> bool:
    """True for a parsed reply with known labels and 1 to 30 words before its sign-off.

    The limit keeps long pages out, not short ones (lesson 05, section 5.3).
    """
    known = (
        reply["intent"] in INTENTS
        and reply["priority"] in PRIORITIES
        and reply["product"] in PRODUCTS
        and (reply["policy"] in policies() or reply["policy"] == "none")
    )
    text = reply["reply"]
    return known and text.endswith(SIGN_OFF) and 1 <= word_count(text) <= MAX_WORDS


def _body(reply: str) -> str:
    """What the reply says: plain, without its sign-off and without the figures in product names."""
    products = "|".join(map(re.escape, PRODUCTS[:-1]))
    return re.sub(products, " ", plain(reply.removesuffix(SIGN_OFF)), flags=re.I)


def _mails(text: str) -> set[str]:
    """Every mail address in a text, in small letters."""
    return set(_MAIL.findall(text.lower()))


def _holds(body: str, value: str, accept: tuple[str, ...]) -> bool:
    """True if a reply states a value that is no quantity, or another wording of it, without negating it."""
    if phones(value):
        return phones(value) <= phones(body)
    if "@" in value:
        return value in _mails(body)
    flat = " ".join(body.lower().split())
    for wording in (value, *accept):
        wording = wording.lower()
        for match in re.finditer(rf"(?<!\w){re.escape(wording)}(?!\w)", flat):
            if wording.startswith(("not", "no ")) or not negated(flat[: match.start()]):
                return True
    return False


@lru_cache(maxsize=8)
def _known(sections: tuple, known: tuple) -> tuple[dict, dict]:
    """(policy, key) -> fact, and policy -> (quantities, phones and mail addresses) of its section, of one handbook and its facts."""
    return (
        {(fact.policy, fact.key): fact for fact in known},
        {s.policy: (quantities(s.text), phones(s.text) | _mails(s.text)) for s in sections},
    )


def facts_right(reply: str, policy: str, asks: list[str], version: int = 1) -> bool:
    """True if the reply holds every value asked for, and none of that kind from outside the right section.

    A quantity (45 days) must be there, and every quantity with the same unit must stand in the right section (beside a
    value that is no quantity, such as "free", those of every unit), and so must every phone number and mail address.
    Outside the handbook (policy "none") the reply must name a colleague and hold none of these: nothing made up.
    """
    body = _body(reply)
    said, stated = quantities(body), quantities(body, negated=False)
    if policy == "none":
        return "colleague" in body.lower() and not said | phones(body) | _mails(body)
    known, sections = _known(handbook(version), facts())
    allowed, addresses = sections[policy]
    if not phones(body) | _mails(body) <= addresses:
        return False
    for key in asks:
        fact = known[policy, key]
        value = fact.value_v2 if version == 2 and fact.value_v2 else fact.value
        wanted = {q for q in quantities(value) if q[1]}
        units = {unit for _, unit in wanted}
        if not wanted and not _holds(body, value, fact.accept):
            return False
        if not wanted:  # "free, or 20 EUR": no figure of any kind may be made up beside it
            units = {unit for _, unit in said if unit}
        if not wanted <= stated or not {q for q in said if q[1] in units} <= allowed:
            return False
    return True


def unasked(reply: str, row: dict, version: int = 1) -> set[tuple[str, str]]:
    """Figures with a unit that a reply states and nobody asked for: in no fact that ``row`` asks, and not in the ticket.

    ``resolved`` lets such a figure pass if it stands in the right section (lesson 05, section 5.3).
    """
    known = _known(handbook(version), facts())[0]
    asked = quantities(row["ticket"])
    for key in row["asks"]:
        fact = known[row["reply"]["policy"], key]
        asked |= quantities(fact.value_v2 if version == 2 and fact.value_v2 else fact.value)
    return {figure for figure in quantities(_body(reply)) - asked if figure[1]}


def score_reply(text: str, row: dict, version: int = 1) -> Score:
    """Score one reply against its ticket's row, with the facts of a handbook version."""
    reply = parse_reply(text)
    if reply is None:
        return Score()
    gold = row["reply"]
    return Score(
        format=in_house_form(reply),
        triage=(reply["intent"], reply["priority"]) == (gold["intent"], gold["priority"]),
        product=reply["product"] == gold["product"],
        policy=reply["policy"] == gold["policy"],
        facts=facts_right(reply["reply"], gold["policy"], row["asks"], version),
    )


def score_all(texts: list[str], rows: list[dict], version: int = 1) -> list[Score]:
    """One Score for each reply; raises ValueError if there are not as many replies as tickets."""
    if len(texts) != len(rows):
        raise ValueError(f"{len(texts)} replies for {len(rows)} tickets")
    return [score_reply(text, row, version) for text, row in zip(texts, rows)]


def summary(scores: list[Score]) -> dict[str, dict[str, float]]:
    """Every score by its name, as a rate with its interval."""
    return {name: rate([getattr(score, name) for score in scores]) for name in SCORES}


def agreement(texts: list[str]) -> float:
    """Share of pairs of answers to one ticket that say the same: same labels and same quantities. 1.0 is full consistency.

    An answer that does not parse agrees with nothing.
    """
    said = []
    for text in texts:
        reply = parse_reply(text)
        body = reply and (
            *(reply[key] for key in KEYS[:4]),
            frozenset(quantities(_body(reply["reply"]))),
        )
        said.append(body)
    pairs = [(a, b) for i, a in enumerate(said) for b in said[i + 1 :]]
    return sum(a is not None and a == b for a, b in pairs) / len(pairs) if pairs else 1.0


def house_metric(version: int = 1):
    """The score as an ``evaluate`` metric: ``compute(predictions=texts, references=rows)`` gives each rate's value.

    ``references`` are rows of the ticket file, as JSON text (a metric's columns need one fixed type).
    """
    import datasets
    import evaluate

    class HouseReply(evaluate.Metric):
        def _info(self):
            text = datasets.Value("string")
            return evaluate.MetricInfo(
                description="Share of replies that are right, part by part.",
                citation="",
                inputs_description="predictions: replies; references: ticket rows as JSON",
                features=datasets.Features({"predictions": text, "references": text}),
            )

        def _compute(self, predictions, references):
            scores = score_all(list(predictions), [json.loads(row) for row in references], version)
            return {name: rate["value"] for name, rate in summary(scores).items()}

    return HouseReply()


if __name__ == "__main__":
    from helpers.score_tickets import main

    raise SystemExit(main())
