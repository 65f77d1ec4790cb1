"""Lesson 01: the prompt playground, a face on ``try_prompt``."""

from __future__ import annotations

import html
from collections.abc import Callable

from helpers import data, evaluation
from helpers.widgets.base import Panel, table

MAX_NEW_TOKENS = 96


def at_each_token(top_k: int, tell: Callable[[str], None]):
    """For ``generation.generate(processors=...)``: keep the ``top_k`` likeliest tokens (0: all) and tell of each one.

    An exception that ``tell`` raises ends the generation between two tokens.
    """
    from transformers import LogitsProcessor, LogitsProcessorList

    class EachToken(LogitsProcessor):
        written = 0

        def keep(self, places: list[int]) -> None:
            pass  # nothing is kept for a row

        def __call__(self, input_ids, scores):
            self.written += 1
            tell(f"writing token {self.written} of at most {MAX_NEW_TOKENS}")
            if not top_k:
                return scores
            least = scores.topk(min(top_k, scores.shape[-1])).values[:, -1:]
            return scores.masked_fill(scores < least, -float("inf"))

    return lambda prompt_width, rows: LogitsProcessorList([EachToken()])


def try_prompt(
    generate: Callable,
    row: dict,
    system: str = data.LONG_PROMPT,
    examples: list[dict] | tuple = (),
    temperature: float = 0.0,
    top_k: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> dict:
    """Ask one ticket once: the reply, its price, what was parsed, and the score where the row has a right reply (section 1.2).

    ``generate`` is ``generation.generate`` with model and tokenizer put in (``functools.partial``). ``top_k`` is the number of
    tokens to draw from when ``temperature`` > 0; 0 means all. Raises ValueError for an empty ticket.
    """
    if not row["ticket"].strip():
        raise ValueError("the ticket is empty; type a customer's question")
    tell("reading the prompt")
    reply = generate(
        [data.messages(row["ticket"], system, examples)],
        max_new_tokens=MAX_NEW_TOKENS,
        temperature=temperature,
        processors=at_each_token(top_k, tell),
    )[0]
    return {
        "row": row,
        "reply": reply,
        "parsed": evaluation.parse_reply(reply.text),
        "score": evaluation.score_reply(reply.text, row) if "reply" in row else None,
    }


def tried(result: dict) -> str:
    """What ``try_prompt`` found, as HTML."""
    row, reply, said, score = (result[key] for key in ("row", "reply", "parsed", "score"))
    price = {"tokens read": reply.prompt_tokens, "tokens written": reply.new_tokens}
    parts = [f"<p>Ticket: {html.escape(row['ticket'])}</p><pre>{html.escape(reply.text)}</pre>"]
    parts.append(table([price | {"seconds": round(reply.seconds, 2)}], "Price"))
    if said is None:
        parts.append("<p>Parsed: no, this is not one JSON object with the five keys.</p>")
    else:
        gold = row.get("reply", {})
        fields = [
            {"field": k, "said": said[k], "right": gold.get(k, "not known")} for k in data.KEYS
        ]
        parts.append(table(fields, "Parsed"))
    if score is None:
        parts.append("<p>Not scored: nobody has written the right reply to this ticket.</p>")
    else:
        verdict = {name: "right" if getattr(score, name) else "wrong" for name in evaluation.SCORES}
        parts.append(table([verdict], "Score"))
    return "".join(parts)


def prompt_playground(
    generate: Callable, rows: list[dict], examples: list[dict], first: dict | None = None
) -> Panel:
    """Change the system prompt, the examples, temperature and k, and ask; nothing runs before a click (section 1.2).

    ``examples`` are solved rows of which the first few are shown; ``first`` is an earlier result of ``try_prompt``.
    """
    import ipywidgets

    by_id = {row["id"]: row for row in rows}

    def show(tell, ticket, own, system, shots, temperature, top_k) -> str:
        row = {"ticket": own} if own.strip() else by_id[ticket]
        said = try_prompt(generate, row, system, examples[:shots], temperature, top_k, tell)
        return tried(said)

    wide = ipywidgets.Layout(width="95%")
    number = ipywidgets.Layout(width="13em")
    options = [(f"{row['id']}: {row['ticket'][:60]}", row["id"]) for row in rows]
    controls = {
        "ticket": ipywidgets.Dropdown(options=options, description="Ticket:", layout=wide),
        "own": ipywidgets.Textarea(description="or your own ticket:", layout=wide, rows=2),
        "system": ipywidgets.Textarea(
            data.LONG_PROMPT, description="System prompt:", layout=wide, rows=6
        ),
        "shots": ipywidgets.BoundedIntText(
            min(2, len(examples)), min=0, max=len(examples), description="Examples:", layout=number
        ),
        "temperature": ipywidgets.BoundedFloatText(
            0.0, min=0.0, max=2.0, step=0.1, description="Temperature:", layout=number
        ),
        "top_k": ipywidgets.BoundedIntText(
            0, min=0, max=1000, description="k (0: all tokens):", layout=number
        ),
    }
    before = tried(first) if first else "<p>Nothing has been asked yet: press Ask.</p>"
    return Panel("Prompt playground", controls, show, run="Ask", first=before)
