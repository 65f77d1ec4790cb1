"""What is forgotten while the house reply is learned, when, by LoRA and by full fine-tuning, and does replay keep it?

Introduced in lesson 07, section 7.6. Replay of the model's own answers to general prompts is a form of rehearsal (Robins 1995).
"""

from __future__ import annotations

import time

from helpers import data, evaluation, methods, models, probes, runtime
from helpers.generation import generate
from helpers.knowledge import runs

BASE = {"kind": "lora", "replay": 0.0, "rows": 96, "epochs": 10, "seed": 0}
ALLOWED = {"kind": ("lora", "full"), "replay": (0.0, 0.1, 0.3)}
FILES = ("general.jsonl", "prose.txt", "replay.jsonl")
RUNS = [
    *({"kind": kind} for kind in ALLOWED["kind"]),
    *({"replay": share, "epochs": 3} for share in (0.1, 0.3)),
]
POINTS = (0.5, 1.0, 3.0, 10.0)  # epochs
REPLAY_TOKENS = 128


def replay_rows(count: int, profile: runtime.Profile) -> list[dict]:
    """``count`` general prompts with the base model's own greedy answers, of those that it brought to an end; the kinds in turn.

    Raises ValueError where there are too few.
    """
    if not count:
        return []
    lines = sorted(probes.read("replay.jsonl"), key=lambda line: line["id"][-2:])
    asked = [[{"role": "user", "content": line["prompt"]}] for line in lines]
    model, tokenizer = models.load_model(profile), models.load_tokenizer(profile)
    replies = generate(model, tokenizer, asked, REPLAY_TOKENS, progress="replay")
    ended = [
        runs.row(prompt, reply.text)
        for prompt, reply in zip(asked, replies)
        if reply.text and reply.new_tokens < REPLAY_TOKENS
    ]
    if count > len(ended):
        raise ValueError(
            f"{count} replay rows asked for, but only {len(ended)} answers came to an end; add prompts"
        )
    return ended[:count]


def remembered(model, tokenizer) -> dict:
    """What a model can do: the general probe by kind, the loss on prose, and the house task on 40 validation tickets."""
    general = probes.read("general.jsonl")[:: 6 if runtime.fast() else 1]
    asked = [[{"role": "user", "content": probe["prompt"]}] for probe in general]
    texts = [reply.text for reply in generate(model, tokenizer, asked, max_new_tokens=48)]
    by_kind: dict[str, list] = {}
    for text, probe in zip(texts, general):
        by_kind.setdefault(probe["kind"], []).append((text, probes.passes(text, probe)))
    paragraphs = probes.paragraphs()
    tickets = data.tickets("validation")[::6][: runtime.scaled(40)]
    house = methods.conversations(methods.METHODS["sft-rag"], tickets)
    replies = generate(model, tokenizer, house, methods.MAX_NEW_TOKENS)
    scores = evaluation.score_all([reply.text for reply in replies], tickets)
    return {
        "probe": {kind: runs.bits(ok for _, ok in found) for kind, found in by_kind.items()},
        "prose": probes.prose_losses(
            model, tokenizer, paragraphs[: runtime.scaled(len(paragraphs), 3)]
        ),
        "house": {part: runs.bits(getattr(s, part) for s in scores) for part in evaluation.SCORES},
        "samples": {kind: found[0][0] for kind, found in by_kind.items()},
    }


class Watch:
    """Measures what the model remembers before training and at each of ``POINTS``; ``points`` holds what it found."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.begin()

    def begin(self) -> None:
        """Forget what was measured: a training run begins, perhaps again after memory ran out."""
        self.left, self.points, self.seconds = list(POINTS), [], 0.0

    def measure(self, trainer, epoch: float) -> None:
        started = time.perf_counter()
        found = remembered(runs.as_served(trainer), self.tokenizer)
        self.points.append({"epoch": epoch, **found})
        self.seconds += time.perf_counter() - started

    def callback(self, trainer):
        """The ``TrainerCallback`` that does it."""
        from transformers import TrainerCallback

        watch = self

        class Callback(TrainerCallback):
            def on_train_begin(self, args, state, control, **kwargs):
                watch.begin()
                watch.measure(trainer, 0.0)

            def on_step_end(self, args, state, control, **kwargs):
                if watch.left and state.epoch >= watch.left[0]:
                    watch.measure(trainer, watch.left.pop(0))

        return Callback()


def run(setting: dict, profile: runtime.Profile) -> dict:
    """Train the house reply at a constant learning rate, replay rows mixed in, and measure on the way; returns the line.

    ``replay`` is the replayed rows' share of all rows. ``train_seconds`` leaves the measuring out.
    """
    house = methods.training_rows(methods.SECTIONS_K)[: runtime.scaled(setting["rows"])]
    share, watch = setting["replay"], Watch(models.load_tokenizer(profile))
    rows = house + replay_rows(round(len(house) * share / (1 - share)), profile)
    trainer, seconds = runs.train(
        *(rows, profile, watch.callback),
        kind=setting["kind"],
        seed=setting["seed"],
        num_train_epochs=setting["epochs"],
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=8,
    )
    seconds -= watch.seconds
    return runs.line_of(setting, profile, rows, trainer, seconds, points=watch.points)
