"""Lesson 05: any two methods on any ticket, and a browser of their errors; a face on ``side_by_side`` and ``tickets_where``."""

from __future__ import annotations

import html

from helpers import data, errors, evaluation
from helpers.widgets.base import Panel, table

ANY, ANY_FACET, ANY_PART = "any cause", "any facet", "any part"
KINDS = ("all", "A wrong", "B wrong", "both wrong", "only A right", "only B right")


def side_by_side(row: dict, replies: dict[str, str]) -> list[dict]:
    """A ticket's right reply beside the replies of methods: a row for each field, then for each part of the score (section 5.4)."""
    said = {name: evaluation.parse_reply(text) for name, text in replies.items()}
    scores = {name: evaluation.score_reply(text, row) for name, text in replies.items()}
    rows = [
        {"part": key, "right": row["reply"][key]}
        | {name: reply[key] if reply else "does not parse" for name, reply in said.items()}
        for key in data.KEYS
    ]
    for part in evaluation.SCORES:
        verdicts = {n: "right" if getattr(s, part) else "WRONG" for n, s in scores.items()}
        rows.append({"part": f"score: {part}", "right": ""} | verdicts)
    return rows


def tickets_where(kind: str, a: list[bool], b: list[bool]) -> list[int]:
    """Places of the tickets of a kind (one of ``KINDS``), from what methods A and B resolved, in order."""
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} does not exist; one of {', '.join(KINDS)}")
    keep = {
        "all": lambda x, y: True,
        "A wrong": lambda x, y: not x,
        "B wrong": lambda x, y: not y,
        "both wrong": lambda x, y: not x and not y,
        "only A right": lambda x, y: x and not y,
        "only B right": lambda x, y: y and not x,
    }[kind]
    return [i for i, flags in enumerate(zip(a, b)) if keep(*flags)]


def error_browser(
    rows: list[dict], texts: dict[str, list[str]], a: str, b: str, wrong: dict | None = None
) -> Panel:
    """Compare two methods on a ticket chosen by id, or go through the tickets of a kind with Previous and Next.

    The kind is who resolved it; a facet and a part of the score that A got wrong narrow it. ``texts`` holds each method's replies
    in the order of ``rows``; ``wrong`` each method's ``errors.wrong_replies``: with it the browser names the cause of a wrong
    reply, prints the pages that were shown, and goes through the tickets of one cause.
    """
    import ipywidgets

    pages = {section.policy: section.passage for section in data.handbook()}

    faults = {
        name: {line.id: line for line in frame.itertuples()}
        for name, frame in (wrong or {}).items()
    }

    place = {row["id"]: i for i, row in enumerate(rows)}
    scores = {name: evaluation.score_all(replies, rows) for name, replies in texts.items()}
    resolved = {name: [score.resolved for score in found] for name, found in scores.items()}

    def chosen(a: str, b: str, kind: str, facet: str, part: str, cause: str = ANY) -> list[int]:
        found = tickets_where(kind, resolved[a], resolved[b])
        if facet != ANY_FACET:
            found = [i for i in found if facet in rows[i]["facets"]]
        if part != ANY_PART:
            found = [i for i in found if not getattr(scores[a][i], part)]
        if cause == ANY:
            return found
        mine = faults.get(a, {})
        return [i for i in found if (at := mine.get(rows[i]["id"])) and at.cause == cause]

    def fault(letter: str, name: str, ticket: str) -> str:
        if (line := faults.get(name, {}).get(ticket)) is None:
            return ""
        shown = "".join(f"<p>Page shown: {html.escape(pages[code])}</p>" for code in line.context)
        return f"<p>{letter}: wrong by {line.cause} ({errors.CAUSES[line.cause]}).</p>" + shown

    def show(
        a: str, b: str, kind: str, facet: str, part: str, ticket: str, cause: str = ANY
    ) -> str:
        if ticket.strip() not in place:
            ids = f"{rows[0]['id']} to {rows[-1]['id']}"
            raise ValueError(f"no ticket has the id {ticket!r}; expected one of {ids}")
        i, found = place[ticket.strip()], chosen(a, b, kind, facet, part, cause)
        kind += f", facet: {facet}" * (facet != ANY_FACET) + f", A wrong on {part}" * (
            part != ANY_PART
        )
        kind += f", cause of A: {cause}" * (cause != ANY)
        row = rows[i]
        where = f"number {found.index(i) + 1} of" if i in found else "not among"
        named = {f"A: {a}": texts[a][i], f"B: {b}": texts[b][i]}
        unread = [
            f"<p>{html.escape(name)} wrote:</p><pre>{html.escape(text)}</pre>"
            for name, text in named.items()
            if evaluation.parse_reply(text) is None
        ]
        return (
            f"<p>{html.escape(row['id'])}, {where} {len(found)} tickets of the kind: {kind}. Facets: "
            f"{html.escape(', '.join(row['facets']))}.</p><p>{html.escape(row['ticket'])}</p>"
            + table(side_by_side(row, named))
            + fault("A", a, row["id"])
            + fault("B", b, row["id"])
            + "".join(unread)
        )

    controls = {
        "a": ipywidgets.Dropdown(options=list(texts), value=a, description="Method A:"),
        "b": ipywidgets.Dropdown(options=list(texts), value=b, description="Method B:"),
        "kind": ipywidgets.Dropdown(options=KINDS, description="Show tickets:"),
        "facet": ipywidgets.Dropdown(
            options=(ANY_FACET, *sorted({facet for row in rows for facet in row["facets"]})),
            description="Facet:",
        ),
        "part": ipywidgets.Dropdown(options=(ANY_PART, *errors.PARTS), description="A wrong on:"),
        "cause": ipywidgets.Dropdown(options=(ANY, *errors.CAUSES), description="A wrong by:"),
        "ticket": ipywidgets.Text(rows[0]["id"], description="Ticket id:", continuous_update=False),
    }

    if not faults:
        del controls["cause"]

    def go(step: int) -> None:
        values = {name: control.value for name, control in controls.items() if name != "ticket"}
        found, now = chosen(**values), place.get(controls["ticket"].value.strip(), -1)
        ahead = [i for i in found if (i > now if step > 0 else i < now)]
        if ahead:
            controls["ticket"].value = rows[ahead[0] if step > 0 else ahead[-1]]["id"]
        else:
            panel.say(
                f"No further ticket that way; {len(found)} are of the kind: {', '.join(list(values.values())[2:])}."
            )

    buttons = []
    for name, step in (("Previous", -1), ("Next", 1)):
        button = ipywidgets.Button(description=name, tooltip=f"{name} ticket of this kind")
        button.on_click(lambda _, step=step: go(step))
        buttons.append(button)
    panel = Panel("Two methods on one ticket", controls, show, buttons=tuple(buttons))
    return panel
