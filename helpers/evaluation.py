"""Read a reply, score it field by field, and say how sure the figure is.

Introduced in lesson 00, section 0.6. One parser serves every method; what does not parse is wrong on every field.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache

from helpers.data import INTENTS, KEYS, MAX_WORDS, PRIORITIES, PRODUCTS, SIGN_OFF, facts, handbook, policies

SCORES = ("format", "triage", "product", "policy", "facts", "resolved")

_UNITS = (
    *("working day", "business day", "charge cycle", "wrong try", "wrong trie", "instalment", "attempt", "cycle"),
    *("minute", "second", "child", "children", "phone", "month", "week", "year", "hour", "day", "trie", "try"),
    *("km/h", "km", "kg", "m", "EUR", "euro", "€", "%", "percent", "°C"),
)
_SAME = {
    "business day": "working day",
    "cycle": "charge cycle",
    "wrong trie": "try",
    "wrong try": "try",
    "trie": "try",
    "children": "child",
    "euro": "EUR",
    "€": "EUR",
    "eur": "EUR",
    "percent": "%",
}
_WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()
_NUMBER = r"\d{1,3}(?:,\d{3})+|\d+(?:\.\d+)?"
_QUANTITY = re.compile(
    rf"(?<![\w:.])(?:(€)\s?)?({_NUMBER})(?:(:\d\d)|[\s-]?({'|'.join(map(re.escape, _UNITS))})s?(?![a-z]))?", re.I
)
_PHONE = re.compile(r"\b0800[\s-]?\d{3}[\s-]?\d{4}\b")
_NEGATED = re.compile(r"(?:\bnot|n't|\bnever|\bno longer)\s+(?:\w+\s+)?$", re.I)


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
    """The reply's JSON object, or None if the text is anything but one well-formed house reply.

    Well-formed: one JSON object and nothing around it, exactly the five keys, all values text, known labels, and a
    reply of 1 to 30 words before its sign-off: the desk answers the question, it does not quote the page.
    """
    try:
        reply = json.loads(text.strip(), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError):
        return None
    if not isinstance(reply, dict) or set(reply) != set(KEYS):
        return None
    if not all(isinstance(value, str) for value in reply.values()):
        return None
    known = (
        reply["intent"] in INTENTS
        and reply["priority"] in PRIORITIES
        and reply["product"] in PRODUCTS
        and (reply["policy"] in policies() or reply["policy"] == "none")
    )
    says = reply["reply"].removesuffix(SIGN_OFF)
    signed = says != reply["reply"] and 1 <= len(says.split()) <= MAX_WORDS
    return reply if known and signed else None


def quantities(text: str) -> set[tuple[str, str]]:
    """Every number with its unit: ``"45 days, or €60"`` gives ``{("45", "day"), ("60", "EUR")}``.

    A number without a unit that we know has the unit ``""``; a time of day has ``"clock"``. Phone numbers are left out.
    """
    text = _PHONE.sub(" ", text)
    for number, word in enumerate(_WORDS):
        text = re.sub(rf"\b{word}\b(?=[\s-](?:{'|'.join(map(re.escape, _UNITS))}))", str(number), text, flags=re.I)
    found = set()
    for euro, number, clock, unit in _QUANTITY.findall(text):
        if clock:
            found.add((number + clock, "clock"))
            continue
        unit = "EUR" if euro else unit.lower().replace("°c", "°C")
        found.add((number.replace(",", ""), _SAME.get(unit, unit)))
    return found


def _holds(reply: str, value: str, accept: tuple[str, ...]) -> bool:
    """True if the reply states a textual value, or another wording of it, without negating it."""
    flat = " ".join(reply.lower().split())
    for wording in (value, *accept):
        wording = wording.lower()
        for match in re.finditer(rf"(?<!\w){re.escape(wording)}(?!\w)", flat):
            if wording.startswith(("not", "no ")) or not _NEGATED.search(flat[: match.start()]):
                return True
    if _PHONE.fullmatch(value):
        return re.sub(r"\D", "", value) in {re.sub(r"\D", "", number) for number in _PHONE.findall(reply)}
    return False


@lru_cache
def _known(version: int) -> tuple[dict, dict]:
    """(policy, key) -> fact, and policy -> quantities in its section, for a handbook version."""
    return (
        {(fact.policy, fact.key): fact for fact in facts()},
        {section.policy: quantities(section.text) for section in handbook(version)},
    )


def facts_right(reply: str, policy: str, asks: list[str], version: int = 1) -> bool:
    """True if the reply holds every value asked for, and no other value of that kind.

    A quantity (45 days) must be there, and every quantity with the same unit must stand in the right section. Outside the
    handbook (policy "none") the reply must name a colleague and hold no quantity and no phone number: nothing made up.
    """
    body = reply.removesuffix(SIGN_OFF)
    for product in PRODUCTS[:-1]:
        body = re.sub(re.escape(product), " ", body, flags=re.I)
    said = quantities(body)
    if policy == "none":
        return "colleague" in body.lower() and not said and not _PHONE.search(body)
    known, allowed = _known(version)
    for key in asks:
        fact = known[policy, key]
        value = fact.value_v2 if version == 2 and fact.value_v2 else fact.value
        wanted = set() if _PHONE.search(value) else {q for q in quantities(value) if q[1]}
        if not wanted:
            if not _holds(body, value, fact.accept):
                return False
            if _PHONE.search(value) and len(set(_PHONE.findall(body))) > 1:
                return False
            continue
        units = {unit for _, unit in wanted}
        if not wanted <= said or not {q for q in said if q[1] in units} <= allowed[policy]:
            return False
    return True


def score_reply(text: str, row: dict, version: int = 1) -> Score:
    """Score one reply against its ticket's row, with the facts of a handbook version."""
    reply = parse_reply(text)
    if reply is None:
        return Score()
    gold = row["reply"]
    return Score(
        format=True,
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


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for a proportion (Wilson 1927), by scipy; (0, 1) for n = 0."""
    from scipy.stats import binomtest

    if n == 0:
        return 0.0, 1.0
    interval = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def rate(flags: list[bool]) -> dict[str, float]:
    """``{"value", "low", "high"}`` of a list of yes and no, with its 95 % interval."""
    low, high = wilson(sum(flags), len(flags))
    return {"value": sum(flags) / len(flags) if flags else 0.0, "low": low, "high": high}


def summary(scores: list[Score]) -> dict[str, dict[str, float]]:
    """Every score by its name, as a rate with its interval."""
    return {name: rate([getattr(score, name) for score in scores]) for name in SCORES}


def mcnemar(a: list[bool], b: list[bool]) -> dict:
    """Exact McNemar test of two methods on the same tickets (McNemar 1947): only tickets where they differ count.

    Returns ``only_a``, ``only_b``, ``difference`` (share of a minus share of b) and the two-sided ``p``.
    """
    from scipy.stats import binomtest

    if len(a) != len(b):
        raise ValueError(f"a paired test needs the same tickets: {len(a)} and {len(b)}")
    only_a = sum(x and not y for x, y in zip(a, b))
    only_b = sum(y and not x for x, y in zip(a, b))
    p = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return {"only_a": only_a, "only_b": only_b, "difference": (only_a - only_b) / max(1, len(a)), "p": float(p)}


def agreement(texts: list[str]) -> float:
    """Share of pairs of answers to one ticket that say the same: same labels and same quantities. 1.0 is full consistency.

    An answer that does not parse agrees with nothing.
    """
    said = []
    for text in texts:
        reply = parse_reply(text)
        body = reply and (*(reply[key] for key in KEYS[:4]), frozenset(quantities(reply["reply"])))
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
