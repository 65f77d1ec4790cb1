"""Wrong replies by their cause, as a table to filter; and the audit: where the score itself goes wrong.

Introduced in lesson 05, section 5.4.
"""

from __future__ import annotations

import json

from helpers import data
from helpers.evaluation import SCORES, parse_reply, score_all, score_reply
from helpers.quantities import phones, quantities
from helpers.statistics import bootstrap, wilson

PARTS = SCORES[:-1]
CAUSES = {
    "format": "no house reply: it does not parse, or breaks the house form",
    "retrieval": "the right section was not before the model, or one was where none fits",
    "invented": "it states a figure that it cannot have from the ticket, a section shown or the right one",
    "reading": "the right section was there, and the answer was not taken from it",
    "memory": "no section was shown (a method without retrieval), and the answer did not come by heart",
    "label": "the answer is right; intent, priority, product or the policy's code is not",
}


def _made_up(text: str, row: dict, context: list[data.Section] | None, version: int) -> bool:
    """True if a figure with a unit, or a phone number, comes from nowhere that the writer could have it from.

    That is the ticket, the sections shown and the right one; for a method that is shown none, the whole handbook.
    """
    pages = data.handbook(version)
    if context is not None:
        pages = [*context, *(page for page in pages if page.policy == row["reply"]["policy"])]
    sources = [row["ticket"], *data.PRODUCTS, *(page.text for page in pages)]
    known = set().union(*(quantities(source) | phones(source) for source in sources))
    return any(q not in known for q in quantities(text) if q[1]) or not phones(text) <= known


def cause_of(
    text: str, row: dict, context: list[data.Section] | None = None, version: int = 1
) -> str | None:
    """One of CAUSES for a wrong reply, None for a right one: the first thing that went wrong on the way to it.

    ``context`` are the sections shown to the model; None is a method that shows none. A ticket outside the handbook wants none
    ("nothing found"): a section shown all the same is the retriever's mistake.
    """
    score = score_reply(text, row, version)
    if score.resolved:
        return None
    if not score.format:
        return "format"
    if score.facts and score.policy:
        return "label"
    gold = row["reply"]["policy"]
    if context is not None:
        shown = [section.policy for section in context]
        if gold not in shown if gold != "none" else shown:
            return "retrieval"
    if score.facts:
        return "label"
    if _made_up(parse_reply(text)["reply"], row, context, version):
        return "invented"
    return "memory" if context is None else "reading"


def wrong_replies(
    texts: list[str],
    rows: list[dict],
    contexts: list[list[data.Section]] | None = None,
    version: int = 1,
):
    """A pandas DataFrame with a line for each wrong reply: id, cause, wrong (parts), facets, ticket, context, reply, gold.

    ``facets``, ``wrong`` and ``context`` (policy codes, best first) are tuples. Filter it with ``pick`` or as any DataFrame. Raises
    ValueError if replies, tickets and contexts are not equally many.
    """
    import pandas as pd

    if contexts is not None and len(contexts) != len(rows):
        raise ValueError(f"{len(contexts)} contexts for {len(rows)} tickets")
    lines = []
    scores = score_all(texts, rows, version)
    for i, (text, row, score) in enumerate(zip(texts, rows, scores)):
        context = contexts[i] if contexts is not None else None
        cause = cause_of(text, row, context, version)
        if cause:
            lines.append(
                {
                    "id": row["id"],
                    "cause": cause,
                    "wrong": tuple(part for part in PARTS if not getattr(score, part)),
                    "facets": tuple(row["facets"]),
                    "ticket": row["ticket"],
                    "context": tuple(section.policy for section in context or ()),
                    "reply": text,
                    "gold": data.dumps(row["reply"]),
                }
            )
    columns = ("id", "cause", "wrong", "facets", "ticket", "context", "reply", "gold")
    frame = pd.DataFrame(lines, columns=columns)
    frame["cause"] = pd.Categorical(frame["cause"], list(CAUSES))
    return frame


def pick(frame, cause: str | None = None, facet: str | None = None, wrong: str | None = None):
    """The lines of ``wrong_replies`` with this cause, facet and wrong part; None takes all.

    Raises ValueError for a name that does not exist, so that a misspelt filter does not look like a clean sheet.
    """
    names = {"cause": (cause, CAUSES), "facet": (facet, data.FACETS), "wrong": (wrong, PARTS)}
    for what, (name, known) in names.items():
        if name is not None and name not in known:
            raise ValueError(f"{what} {name!r} does not exist; one of {', '.join(known)}")
    keep = [
        (cause is None or line.cause == cause)
        and (facet is None or facet in line.facets)
        and (wrong is None or wrong in line.wrong)
        for line in frame.itertuples()
    ]
    return frame[keep]


def audited() -> list[dict]:
    """The replies of ``data/audit.jsonl`` with their judgments, each with its ticket's ``row`` and its ``score`` of today."""
    tickets = {row["id"]: row for row in data.tickets("test")}
    found = []
    for line in (data.data_dir() / "audit.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        row = tickets[entry["ticket"]]
        found.append(entry | {"row": row, "score": score_reply(entry["reply"], row)})
    return found


def _agreement(pairs: dict[str, list[tuple[bool, bool]]], names: tuple[str, str]):
    """A line for each part: how often two verdicts agree, and which of the two (``names``) is the stricter where they differ."""
    import pandas as pd
    from sklearn.metrics import cohen_kappa_score

    def kappa_of(one, other) -> float:  # a draw without a disagreement may hold one label only
        return 1.0 if (one == other).all() else cohen_kappa_score(one, other)

    lines = []
    for part, both in pairs.items():
        agree = sum(one == other for one, other in both)
        low, high = wilson(agree, len(both))
        line = {"part": part, "agree": agree, "n": len(both), "low %": 100 * low}
        kappa = {"value": 1.0, "low": None, "high": None}  # no interval where they never differ
        if agree < len(both):
            kappa = bootstrap(kappa_of, *zip(*both), resamples=300)
        line |= {"high %": 100 * high, "kappa": kappa["value"]}
        line |= {"kappa low": kappa["low"], "kappa high": kappa["high"]}
        line[f"{names[0]} stricter"] = sum(other and not one for one, other in both)
        lines.append(line | {f"{names[1]} stricter": sum(one and not other for one, other in both)})
    return pd.DataFrame(lines).set_index("part")


def audit():
    """How often the automatic score agrees with the judge of ``data/audit.jsonl``: a pandas DataFrame with a line for each part.

    ``agree`` of ``n`` with Wilson's 95 % interval (in percent), Cohen's kappa (1 full agreement, 0 what chance gives) with the
    bootstrap's over 300 draws, and the two kinds of disagreement. The replies were drawn half from right and half from wrong
    ``facts``: the shares speak of this draw.
    """
    entries = audited()
    pairs = {
        part: [(e["judged"][part], getattr(e["score"], part)) for e in entries] for part in PARTS
    }
    return _agreement(pairs, ("judge", "score"))


def judges():
    """How often the two judges of ``data/audit.jsonl`` agree on the replies that both read (every third), as ``audit`` tells it."""
    twice = [entry for entry in audited() if "second" in entry]
    pairs = {
        part: [(entry["judged"][part], entry["second"]["judged"][part]) for entry in twice]
        for part in PARTS
    }
    return _agreement(pairs, ("first", "second"))
