"""Read figures out of a text: numbers with their units, clock times, phone numbers; and see a negation.

Introduced in lesson 00, section 0.6, with the score that is built on it.
"""

from __future__ import annotations

import re

# Each unit with its spellings, as a pattern; a longer one stands before one that it starts with.
_UNITS = {
    "working day": r"(?:working|business)[\s-]days?",
    "charge cycle": r"(?:charge[\s-])?cycles?",
    "try": r"(?:wrong\s)?(?:try|tries)",
    "child": r"child(?:ren)?",
    **{unit: f"{unit}s?" for unit in "second minute hour day week month year".split()},
    **{unit: f"{unit}s?" for unit in "instalment attempt phone".split()},
    "km/h": r"km/h",
    "km": r"km|kilomet(?:er|re)s?",
    "cm": r"cm|centimet(?:er|re)s?",
    "m": r"m|met(?:er|re)s?",
    "kg": r"kg|kilos?|kilogram(?:me)?s?",
    "Wh": r"wh",
    "EUR": r"eur|euros?|€",
    "%": r"%|per\s?cent",
    "°C": r"°\s?c",
}
_WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()
_NUMBER = rf"-?(?:\d{{1,3}}(?:,\d{{3}})+|\d+(?:\.\d+)?|(?:{'|'.join(_WORDS)})\b)"
_JOIN = r"(?:(?<=\w)\s?-\s?|\s+(?:to|or|and)\s+)"  # a hyphen elsewhere is a minus sign
_RANGE = rf"{_NUMBER}(?:{_JOIN}{_NUMBER})*"
_QUANTITY = re.compile(
    rf"(?<![\w:.-])(?:(?P<clock>\d+:\d\d)|(?P<euro>(?:€|eur)\s?)?(?P<range>{_RANGE})"
    rf"(?:[\s-]?(?P<unit>{'|'.join(_UNITS.values())})(?![a-z]))?)",
    re.I,
)
_PHONE = re.compile(r"(?<![\w.,:])(?:[+0]\d(?:\)?[\s/-]?\d){5,}|\d{3}[\s-]\d{3}[\s-]\d{4})(?!\w)")
_NOT = r"(?:\bnot|n't|\bcannot|\bnever|\bno longer)\s+"
_NEGATED = re.compile(rf"{_NOT}(?:\w+\s+)?$", re.I)
# "do not have 45 days", "isn't the 45 days"; but "no longer than 45 days" and "not found within 12 days" state a figure
_NEGATED_NUMBER = re.compile(
    rf"{_NOT}(?:(?:be|have|get|take|last|cost|need|pay|offer|charge)\s+)?(?:the\s+|an?\s+)?$", re.I
)
_LOOK_BACK = (
    60  # characters; a search through all that stands before takes minutes on 10 kB of figures
)
_PLAIN = str.maketrans(
    {"\u2019": "'", "\u2018": "'", "\u2212": "-", "\u2013": "-", "\u2010": "-", "\u2011": "-"}
)


def plain(text: str) -> str:
    """The text with straight apostrophes, plain hyphens and a sign for "minus"."""
    return re.sub(r"\bminus\s+(?=\d)", "-", text.translate(_PLAIN), flags=re.I)


def negated(before: str) -> bool:
    """True if the text before a wording negates it: ``"it is not "``, ``"it is never really "``."""
    return bool(_NEGATED.search(before[-_LOOK_BACK:]))


def phones(text: str) -> set[str]:
    """Every phone number in a text, as its digits alone."""
    return {re.sub(r"\D", "", number) for number in _PHONE.findall(plain(text))}


def quantities(text: str, negated: bool = True) -> set[tuple[str, str]]:
    """Every number with its unit: ``"14 to 45 days"`` gives ``{("14", "day"), ("45", "day")}``.

    A number without a unit that we know has the unit ``""``; a time of day has ``"clock"``. Phone numbers are
    left out, and with ``negated=False`` so is what follows a "not".
    """
    text = _PHONE.sub(" ", plain(text))
    found = set()
    for match in _QUANTITY.finditer(text):
        before = text[max(0, match.start() - _LOOK_BACK) : match.start()]
        if not negated and _NEGATED_NUMBER.search(before):
            continue
        if match["clock"]:
            found.add((match["clock"], "clock"))
            continue
        spelling = "EUR" if match["euro"] else match["unit"] or ""
        unit = next(
            (name for name, spelt in _UNITS.items() if re.fullmatch(spelt, spelling, re.I)), ""
        )
        for number in re.split(_JOIN, match["range"].lower()):
            if number in _WORDS:
                number = str(_WORDS.index(number)) if unit else None
            if number and unit != "°C":  # "749 EUR, minus 40 EUR" takes 40 EUR off
                number = number.lstrip("-")
            if number:
                found.add((number.replace(",", ""), unit))
    return found
