"""The rungs of the road as data: for each method its prompt, examples, sections, grammar and adapter.

Each is written out in the lesson that introduces it (01, 02, 04); the code here runs any of them on any tickets, keeps the
replies in ``runs/replies/``, and writes the scoreboard's row. It imports ``generation``, ``retrieval`` and ``scoreboard``.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from helpers import data, evaluation, rules, runtime, scoreboard, statistics
from helpers.generation import Reply, generate, house_grammar, latency

# Of the candidate sets in lesson 01, section 1.5, the best on all validation tickets (docs/design.md).
EXAMPLE_IDS = (
    *("train-1022", "train-2162", "train-2204", "train-1313"),
    *("train-0981", "train-1073", "train-1318", "train-1810"),
)
SECTIONS_K = 1
REPAIRED = 0.85
MAX_NEW_TOKENS = 96


@dataclass(frozen=True)
class Method:
    """How a method asks: the system prompt, how many examples and handbook sections, a grammar or not, which adapter."""

    name: str
    system: str = data.LONG_PROMPT
    shots: int = 0
    sections: int = 0
    grammar: bool = False
    adapter: str | None = None


METHODS = {
    method.name: method
    for method in (
        Method("zero-shot"),
        Method("few-shot", shots=8),
        Method("few-shot-constrained", shots=8, grammar=True),
        Method("rag-few-shot", shots=8, sections=1),
        Method("sft", system=data.SHORT_PROMPT, adapter="sft"),
        Method("sft-rag", system=data.SHORT_PROMPT, sections=SECTIONS_K, adapter="sft-rag"),
    )
}


def contexts(
    rows: list[dict], k: int, retriever=None, unseen: bool = False
) -> list[list[data.Section]]:
    """The k sections found for each ticket row, best first; an empty list where the retriever says that nothing fits.

    ``unseen`` scores training rows by a retriever that has not learned from them (lesson 03, section 3.8).
    """
    from helpers.retrieval import default_retriever, top_k

    retriever = retriever or default_retriever()
    tickets = [row["ticket"] for row in rows]
    if not hasattr(retriever, "p_nothing"):
        return top_k(retriever.scores(tickets), retriever.sections, k)
    scores, nothing = (
        retriever.unseen(rows)
        if unseen
        else (retriever.scores(tickets), retriever.p_nothing(tickets))
    )
    found = top_k(scores, retriever.sections, k)
    return [[] if p > retriever.threshold else sections for sections, p in zip(found, nothing)]


def without_model(rows: list[dict], say=rules.quote, retriever=None) -> list[str]:
    """House replies without a language model: the retriever names the section, ``say`` its words (lesson 02, section 2.10)."""
    pages = [found[0].policy if found else "none" for found in contexts(rows, 1, retriever)]
    return [rules.house_reply(page, row["ticket"], say) for page, row in zip(pages, rows)]


def examples(count: int, sections: int = 0, ids: tuple[str, ...] = EXAMPLE_IDS) -> list[dict]:
    """The first ``count`` of the chosen training rows; with ``sections``, each with its own retrieved context."""
    rows = {row["id"]: row for row in data.tickets("train")}
    chosen = [dict(rows[name]) for name in ids[:count]]
    if sections and chosen:
        for row, context in zip(chosen, contexts(chosen, sections, unseen=True)):
            row["sections"] = context
    return chosen


def conversations(method: Method, rows: list[dict], retriever=None) -> list[list[dict]]:
    """What the model is asked, for each ticket row."""
    found = contexts(rows, method.sections, retriever) if method.sections else [None] * len(rows)
    shots = examples(method.shots, method.sections)
    return [data.messages(row["ticket"], method.system, shots, c) for row, c in zip(rows, found)]


def training_rows(sections: int, split: str = "train") -> list[dict]:
    """Prompt and completion of every ticket of a split, as ``SFTTrainer`` takes them (lesson 03, section 3.10).

    With ``sections`` > 0 the prompt holds that many retrieved sections. A training ticket gets what the retriever finds
    without having learned from that ticket. Such a ticket is missed more often than a new one
    (lesson 02, section 2.5), so in ``REPAIRED`` of its misses the right section is put in: what is left is the share of mistakes that
    the model will meet (lesson 03 compares both).
    """
    rows = data.tickets(split)
    found = contexts(rows, sections, unseen=split == "train") if sections else [None] * len(rows)
    if sections and split == "train":
        rng = random.Random(1)
        for row, context in zip(rows, found):
            right = data.policies().get(row["reply"]["policy"])
            if right and right not in context and rng.random() < REPAIRED:
                context[-1:] = [right]
    return [
        {
            "prompt": data.messages(row["ticket"], data.SHORT_PROMPT, (), context),
            "completion": [{"role": "assistant", "content": data.dumps(row["reply"])}],
        }
        for row, context in zip(rows, found)
    ]


def _processors(method: Method, tokenizer):
    """What ``generate`` lets a method choose from: the grammar of a house reply, or None for any token."""
    return house_grammar(tokenizer, data.reply_schema()) if method.grammar else None


def _cache_path(
    method: Method, asked: list, profile: runtime.Profile, adapter: str | Path | None, seed: int
) -> Path:
    weights = ""
    if adapter is not None:
        from helpers.models import sha256

        weights = sha256(Path(adapter) / "adapter_model.safetensors")
    key = json.dumps(
        [asdict(method), asked, profile.model, profile.dtype, weights, seed, MAX_NEW_TOKENS]
    )
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    return runtime.runs_dir() / "replies" / f"{method.name}-{digest}.json"


def answer(
    method: str | Method,
    rows: list[dict],
    model,
    tokenizer,
    profile: runtime.Profile,
    adapter: str | Path | None = None,
    retriever=None,
    seed: int = 0,
) -> list[Reply]:
    """The method's reply to every ticket; read from ``runs/replies/`` where the same question was asked before.

    ``model`` may be a function that returns the model, so that a cached answer loads none.
    """
    method = METHODS[method] if isinstance(method, str) else method
    asked = conversations(method, rows, retriever)
    path = _cache_path(method, asked, profile, adapter, seed)
    if path.exists():
        return [Reply(**reply) for reply in json.loads(path.read_text(encoding="utf-8"))]
    model = model() if not hasattr(model, "generate") else model
    replies = generate(
        model,
        tokenizer,
        asked,
        MAX_NEW_TOKENS,
        processors=_processors(method, tokenizer),
        progress=method.name,
        batch_size=64,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(
        json.dumps([asdict(reply) for reply in replies], ensure_ascii=False), encoding="utf-8"
    )
    os.replace(part, path)
    return replies


def token_prices(replies: list[Reply]) -> dict:
    """``prompt_tokens`` and ``new_tokens`` of a scoreboard row, means over the replies, and their ``intervals`` (bootstrap over the tickets)."""
    prices, intervals = {}, {}
    for name in ("prompt_tokens", "new_tokens"):
        counts = [getattr(reply, name) for reply in replies]
        prices[name] = round(float(np.mean(counts)), 1) or None
        if prices[name] and len(counts) > 1:
            span = statistics.bootstrap(np.mean, counts)
            intervals[name] = (round(span["low"], 1), round(span["high"], 1))
    return {**prices, "intervals": intervals}


def measure_latency(method: str, rows: list[dict], model, tokenizer, n: int = 12) -> dict:
    """``latency_p50_s`` and ``latency_p95_s`` over the first n tickets, one request at a time, and the median's interval in ``intervals``.

    A method's grammar is at work, as in ``answer``. The interval is the bootstrap's over these few tickets: how much the tickets differ, on
    this machine, this minute.
    """
    asked = conversations(METHODS[method], rows[:n])
    grammar = _processors(METHODS[method], tokenizer)
    seconds = latency(model, tokenizer, asked, MAX_NEW_TOKENS, grammar)
    prices = {f"latency_p{p}_s": float(np.percentile(seconds, p)) for p in (50, 95)}
    span = statistics.bootstrap(np.median, seconds) if len(seconds) > 1 else None
    return prices | {"intervals": {"latency_p50_s": (span["low"], span["high"])} if span else {}}


def put_on_scoreboard(
    method: str, replies: list[Reply], rows: list[dict], profile: runtime.Profile, **more
) -> dict:
    """Score the replies, add the tokens they cost, and write the scoreboard's row; ``more`` are further prices.

    ``peak_memory_gb`` is this process's own, or the one given where that is larger (a training run of another process).
    """
    peak = max(runtime.peak_memory_gb(), more.pop("peak_memory_gb", 0.0))
    scores = evaluation.score_all([reply.text for reply in replies], rows)
    tokens = token_prices(replies)
    more["intervals"] = tokens.pop("intervals") | more.get("intervals", {})
    return scoreboard.record(
        scoreboard.make_row(
            method, scores, profile, **tokens, peak_memory_gb=round(peak, 2), **more
        )
    )
