"""Lesson 07: the decision sheet, a face on ``decide.recommend``."""

from __future__ import annotations

import html

from helpers import decide
from helpers.widgets.base import Panel, table


def sheet(answers: dict, rows: list[dict]) -> str:
    """The recommendation as HTML: the first choice in a sentence, the order as a table, then each option's reasons."""
    advice = decide.recommend(answers, rows)
    order = [
        {"place": i, "option": a.option, "standing": a.standing, "rests on": a.method or "no row"}
        for i, a in enumerate(advice, 1)
    ]
    reasons = []
    for a in advice:
        said = "".join(f"<li><p>{html.escape(reason)}</p></li>" for reason in a.reasons)
        reasons.append(f"<p><strong>{a.option}</strong>, {a.standing}:</p><ul>{said}</ul>")
    short = html.escape(decide.in_short(advice))
    return f"<p><strong>{short}</strong></p>{table(order, 'In order')}{''.join(reasons)}"


def decision_sheet(rows: list[dict], **answers) -> Panel:
    """The questions of ``decide.QUESTIONS``, answered for the Bramble desk until changed; ``rows`` are ``scoreboard.read()``'s.

    ``answers`` sets questions by name.
    """
    import ipywidgets

    chosen = decide.checked(answers)
    controls = {}
    for name, (words, allowed) in decide.QUESTIONS.items():
        labels = [f"{a:,}" if isinstance(a, int) else a for a in allowed]
        controls[name] = ipywidgets.Dropdown(
            options=list(zip(labels, allowed)),
            value=chosen[name],
            description=words,
            layout=ipywidgets.Layout(width="95%"),
        )
    return Panel("Decision sheet", controls, lambda **given: sheet(given, rows))
