"""``python -m helpers.evaluation``: score any model or adapter on any ticket file, from the shell.

For checking our figures with tickets of your own; introduced in lesson 05, section 5.8. Nothing is cached or written to the
scoreboard. The row is printed as a table, then as one line of JSON, the last line of the output. Exit code 2 on wrong input.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from helpers import data, methods, models, retrieval, runtime, scoreboard
from helpers.evaluation import score_all
from helpers.generation import Reply, generate, house_grammar


class UsageError(ValueError):
    """An argument that cannot be used, with what to give instead."""


def _at_least(least: int):
    def number(text: str) -> int:
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f"{value} given; expected {least} or more")
        return value

    return number


def parser() -> argparse.ArgumentParser:
    names = ", ".join(methods.METHODS)
    out = argparse.ArgumentParser(prog="python -m helpers.evaluation", description=__doc__)
    add = out.add_argument
    add("--tickets", required=True, metavar="FILE", help="tickets in the format of data/README.md")
    add("--model", help="folder or hub id (default: the profile's model)")
    add("--adapter", metavar="PATH", help="folder of a LoRA adapter for that model")
    add("--handbook", metavar="DIR", help="another handbook; its facts.jsonl stands beside DIR")
    add(
        "--method",
        choices=list(methods.METHODS),
        metavar="NAME",
        help=f"one of {names} (default: sft-rag with an adapter, else rag-few-shot; with --handbook zero-shot with one section)",
    )
    add("--sections", type=_at_least(0), metavar="K", help="sections in the prompt; 0: closed book")
    add("--limit", type=_at_least(1), metavar="N", help="the first N tickets only")
    return out


def choose_method(args: argparse.Namespace) -> methods.Method:
    """The method asked for; else ``sft-rag`` with an adapter and ``rag-few-shot`` without, or with another handbook, whose examples we have
    not, ``zero-shot`` with one section. Raises UsageError if it cannot run.
    """
    method = methods.METHODS[args.method or ("sft-rag" if args.adapter else "rag-few-shot")]
    if args.handbook and not args.method and method.shots:
        method = replace(methods.METHODS["zero-shot"], sections=1)
    if method.adapter and not (args.adapter or args.model):
        raise UsageError(f"{method.name} needs --adapter, or a --model that was tuned as a whole")
    if method.shots and args.handbook:
        raise UsageError(
            f"{method.name} shows examples of the Bramble handbook: with --handbook use "
            "zero-shot, sft or sft-rag (and --sections)"
        )
    return method if args.sections is None else replace(method, sections=args.sections)


def retriever_for(handbook: str | None):
    """The lessons' retriever; over another handbook the same with its pages, or BM25 and MiniLM fused where the codes differ."""
    if handbook is None:
        return retrieval.default_retriever()
    with data.other_handbook(handbook):
        sections = data.handbook()
    if [s.policy for s in sections] == [s.policy for s in data.handbook()]:
        return retrieval.default_retriever().reindexed(sections)
    print("other section codes than ours: no answered tickets to learn from, BM25 and MiniLM fused")
    return retrieval.Hybrid(retrieval.BM25(sections), retrieval.Dense(sections))


def files_sha256(tickets: Path) -> str:
    """One hash over the tickets given and the handbook and facts in use."""
    digest = hashlib.sha256()
    folder = data.handbook_dir()
    for path in (*sorted(folder.glob("*.md")), folder.parent / "facts.jsonl", tickets):
        digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def reply_to(
    method: methods.Method, asked: list, profile: runtime.Profile, adapter: str | None
) -> list[Reply]:
    """Load the model, the adapter merged in as in lesson 05 (in 4 bit: beside it), and answer every conversation; nothing is read from a cache."""
    tokenizer = models.load_tokenizer(profile)
    try:
        model = models.load_model(profile, adapter)
    except (RuntimeError, ValueError) as error:  # shapes that do not fit
        text = str(error).splitlines()[0]
        raise UsageError(f"{adapter or profile.model} does not load: {text}") from error
    if adapter and not profile.quantized:
        model = model.merge_and_unload()
    return generate(
        model,
        tokenizer,
        asked,
        methods.MAX_NEW_TOKENS,
        processors=house_grammar(tokenizer, data.reply_schema()) if method.grammar else None,
    )


def score(args: argparse.Namespace) -> dict:
    """The scoreboard's row for these arguments; raises UsageError, DataError or ModelError with what to do."""
    method, tickets = choose_method(args), Path(args.tickets)
    if args.adapter and not (Path(args.adapter) / "adapter_config.json").exists():
        raise UsageError(f"--adapter {args.adapter}: no adapter_config.json there")
    if args.handbook and not Path(args.handbook).is_dir():
        raise UsageError(f"--handbook {args.handbook}: no such folder")
    if args.model:
        folder = Path(args.model).expanduser()
        os.environ["WORKSHOP_MODEL"] = str(folder.resolve()) if folder.is_dir() else args.model
    with data.other_handbook(args.handbook) if args.handbook else nullcontext():
        rows = data.read_tickets(tickets)[: args.limit]
    profile = runtime.start()
    retriever = retriever_for(args.handbook) if method.sections else None
    with data.other_handbook(args.handbook) if args.handbook else nullcontext():
        asked = methods.conversations(method, rows, retriever)
        replies = reply_to(method, asked, profile, args.adapter)
        scores = score_all([reply.text for reply in replies], rows)
        digest = files_sha256(tickets)
    row = scoreboard.make_row(
        method.name,
        scores,
        profile,
        adapter=args.adapter or "none",
        **methods.token_prices(replies),
        peak_memory_gb=round(runtime.peak_memory_gb(), 2),
    )
    return row | {"tickets": args.tickets, "sections": method.sections, "data_sha256": digest}


def main(argv: list[str] | None = None) -> int:
    """Print the row and its JSON; 0, or 2 with every fault on stderr."""
    args = parser().parse_args(argv)
    try:
        row = score(args)
    except (UsageError, data.DataError, models.ModelError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(scoreboard.table([row]).T.to_string())
    print(json.dumps(row, ensure_ascii=False))
    return 0
