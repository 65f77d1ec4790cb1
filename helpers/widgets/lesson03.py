"""Lesson 03: the token and mask viewer, a face on ``graded_tokens``."""

from __future__ import annotations

import html
from itertools import groupby

from helpers import data
from helpers.widgets.base import Panel, table


def graded_tokens(
    tokenizer, prompt: list[dict], completion: list[dict], template: str | None = None
) -> list[dict]:
    """Every token of a row: ``token`` (its text), ``id``, ``role`` and ``weight``, 1 where it carries loss (section 3.6).

    ``template`` is another chat template (Jinja); the role is "template" for what belongs to no turn's text. Raises
    ValueError where the prompt's tokens do not begin the row's, since then no mask is right. Needs a fast tokenizer.
    """
    options = {"chat_template": template or None}
    text = tokenizer.apply_chat_template(prompt + completion, tokenize=False, **options)
    start = tokenizer.apply_chat_template(
        prompt, tokenize=False, add_generation_prompt=True, **options
    )
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = encoded["input_ids"]
    first = tokenizer(start, add_special_tokens=False)["input_ids"]
    if ids[: len(first)] != first:
        raise ValueError(
            "the prompt with its generation prompt does not begin the whole row: with this template "
            "the model is asked in another way than it is trained"
        )
    spans, place = [], 0
    for turn in prompt + completion:
        begin = text.find(turn["content"], place)
        if begin >= 0:
            place = begin + len(turn["content"])
            spans.append((begin, place, turn["role"]))
    return [
        {
            "token": tokenizer.decode([token]),
            "id": token,
            "role": next((role for a, b, role in spans if a <= left < b), "template"),
            "weight": int(i >= len(first)),
        }
        for i, (token, (left, _)) in enumerate(zip(ids, encoded["offset_mapping"]))
    ]


def tokens_shown(tokens: list[dict]) -> str:
    """Tokens as HTML, a line for each stretch of one role; graded ones bold in a frame, id and weight on hover and in a table."""
    lines = []
    for role, stretch in groupby(tokens, key=lambda token: token["role"]):
        spans = []
        for token in stretch:
            text = html.escape(token["token"].replace("\n", "\\n").replace(" ", "\u00b7"))
            hint = f"id {token['id']}, {role}, loss weight {token['weight']}"
            bold = f"<b>{text}</b>" if token["weight"] else text
            kind = "token loss" if token["weight"] else "token"
            spans.append(f'<span class="{kind}" title="{hint}">{bold}</span>')
        lines.append(f'<tr><th scope="row">{role}</th><td>{" ".join(spans)}</td></tr>')
    graded = sum(token["weight"] for token in tokens)
    rows = [
        {"place": i} | token | {"token": repr(token["token"])} for i, token in enumerate(tokens)
    ]
    return (
        f"<p>{graded} of {len(tokens)} tokens carry loss (bold, framed). The last one is "
        f"{html.escape(repr(tokens[-1]['token']))}, loss weight {tokens[-1]['weight']}.</p>"
        f"<table><tbody>{''.join(lines)}</tbody></table>"
        f"<details><summary>The same as a table of {len(tokens)} rows</summary>{table(rows)}</details>"
    )


def token_viewer(
    tokenizer, rows: list[dict], templates: dict[str, str] | None = None, start: str | None = None
) -> Panel:
    """Any ticket row by its id, under any chat template: choose one of ``templates`` by name, or edit it."""
    import ipywidgets

    by_id = {row["id"]: row for row in rows}
    templates = {"the model's own": tokenizer.chat_template} | (templates or {})

    def show(ticket: str, template: str) -> str:
        if ticket.strip() not in by_id:
            raise ValueError(f"no row has the id {ticket!r}; one of {', '.join([*by_id][:3])}, ...")
        row = by_id[ticket.strip()]
        completion = [{"role": "assistant", "content": data.dumps(row["reply"])}]
        prompt = data.messages(row["ticket"], data.SHORT_PROMPT)
        return tokens_shown(graded_tokens(tokenizer, prompt, completion, template))

    controls = {
        "ticket": ipywidgets.Text(
            start or rows[0]["id"], description="Row id:", continuous_update=False
        ),
        "template": ipywidgets.Textarea(
            tokenizer.chat_template,
            description="Template (Jinja):",
            rows=4,
            continuous_update=False,
            layout=ipywidgets.Layout(width="95%"),
        ),
    }
    preset = ipywidgets.Dropdown(
        options=[(name, text) for name, text in templates.items()],
        description="Template:",
        style={"description_width": "initial"},
    )
    preset.observe(lambda change: setattr(controls["template"], "value", change["new"]), "value")
    return Panel("Token and mask viewer", controls, show, buttons=(preset,))
