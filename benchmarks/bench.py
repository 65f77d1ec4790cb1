"""This workshop against the stock recipes, side by side in one run: ``python -m benchmarks.bench [--quick | --retrieval]``.

Prints a table with ratios and writes ``runs/bench.json``. The stock recipes are what a careful reader of the public
documentation writes: ``SFTTrainer`` with its defaults on a CPU, ``model.generate`` in a loop. Needed work is counted as model
FLOPs (``needed_flops``) and set against the fastest bf16 (or float32) matrix product measured on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from helpers import (
    data,
    evaluation,
    generation,
    indexes,
    labs,
    methods,
    models,
    retrieval,
    runtime,
    training,
)

WARM_UP = 4
SEEDS, STEPS = (0, 1, 2), 15  # of the loss curves
PARTS = ("layers forward", "head and loss", "backward", "optimiser")


def peak_flops(dtype: str) -> float:
    """FLOP/s of the fastest of a few matrix products with shapes that a training step has, median of 20 each."""
    import torch

    best = 0.0
    for tokens, width, out in ((1024, 576, 1536), (2048, 1536, 1536), (2048, 2048, 2048)):
        a = torch.randn(tokens, width, dtype=getattr(torch, dtype))
        b = torch.randn(out, width, dtype=getattr(torch, dtype))
        seconds = []
        for _ in range(25):
            started = time.perf_counter()
            torch.nn.functional.linear(a, b)
            seconds.append(time.perf_counter() - started)
        best = max(best, 2 * tokens * width * out / float(np.median(seconds[5:])))
    return best


def needed_flops(
    config, first: int, rank: int, tokens: float, graded: float, length: float
) -> float:
    """Model FLOPs that training on ``tokens`` tokens needs at the least, ``graded`` of them with loss.

    2 a weight and token forward; 2 more backward in the layers from ``first`` up, where gradients pass through frozen weights; 6 for
    each adapter weight; the head 4 for graded tokens only; attention 4 x length x width forward and twice that back.
    """
    width, inner = config.hidden_size, config.intermediate_size
    head_dim = width // config.num_attention_heads
    kv = config.num_key_value_heads * head_dim
    shapes = [(width, width), (kv, width), (kv, width), (width, width)]
    shapes += [(inner, width), (inner, width), (width, inner)]
    layer, pairs = sum(a * b for a, b in shapes), rank * sum(a + b for a, b in shapes)
    layers, adapted = config.num_hidden_layers, config.num_hidden_layers - first
    attention = 2 * length * width  # causal: half of 4 x length x width
    forward = layers * (2 * layer + attention)
    backward = adapted * (2 * layer + 2 * attention)
    return (
        tokens * (forward + backward + adapted * 6 * pairs) + graded * 4 * width * config.vocab_size
    )


def built(
    kind: str, rows: list[dict], profile: runtime.Profile, folder: str, callbacks=(), **arguments
):
    """A trainer on ``rows`` and the lowest layer with an adapter; ``arguments`` are ``SFTConfig``'s.

    ``kind``: "stock-fp32" and "stock-bf16" are ``SFTTrainer`` with its defaults (gradient checkpointing on), the second with bf16
    weights; "lean" is the trainer of lesson 04 with the same adapters, "lean-fp32" the same in float32, as on a CPU without bf16
    arithmetic, and "lesson" has adapters in the upper two thirds of the layers only, as there.
    """
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    lean = not kind.startswith("stock")
    profile = replace(profile, dtype="float32") if kind.endswith("fp32") else profile
    model = models.load_model(profile)
    first = round(model.config.num_hidden_layers / 3) if kind == "lesson" else 0
    stock = {"use_cpu": True, "bf16": False, "dataloader_pin_memory": False}
    chosen = {"learning_rate": 2e-3 if lean else 2e-4, "save_strategy": "no", "disable_tqdm": True}
    chosen |= (training.hardware_arguments(profile) if lean else stock) | arguments
    trainer = (training.LeanSFTTrainer if lean else SFTTrainer)(
        model=model,
        args=SFTConfig(output_dir=folder, **chosen),
        train_dataset=Dataset.from_list(rows),
        processing_class=models.load_tokenizer(profile),
        peft_config=LoraConfig(
            r=16,
            lora_alpha=32,
            target_modules=labs.ALL,
            layers_to_transform=list(range(first, model.config.num_hidden_layers)),
            task_type="CAUSAL_LM",
        ),
        callbacks=list(callbacks),
    )
    if lean:
        training.make_lean(trainer, profile, compiled=True)
    return trainer, first


def train_parts(kind: str, rows: list[dict], profile: runtime.Profile, steps: int, batch: int):
    """Seconds of each part of a step for 1,000 tokens, after the warm-up; the share of tokens that is graded, the mean row length,
    the lowest layer with an adapter, and the share of tokens that is left when a batch reads its shared beginning once. All kinds
    of ``built`` see the same rows.
    """
    import torch
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        """Seconds of each step, and of the parts of it that ``part`` wraps."""

        def __init__(self):
            self.steps = []

        def on_step_begin(self, *args, **kwargs):
            self.started, self.parts = time.perf_counter(), dict.fromkeys(PARTS, 0.0)

        def on_pre_optimizer_step(self, *args, **kwargs):
            self.ready = time.perf_counter()

        def on_optimizer_step(self, *args, **kwargs):
            self.parts["optimiser"] = time.perf_counter() - self.ready

        def on_step_end(self, *args, **kwargs):
            whole = time.perf_counter() - self.started
            layers, loss = self.parts["layers forward"], self.parts["head and loss"]
            self.parts["head and loss"] = loss - layers  # the loss calls the layers
            self.steps.append(self.parts | {"other": whole - sum(self.parts.values())})

        def part(self, owner, method: str, name: str):
            inner = getattr(owner, method)

            def timed(*args, **kwargs):
                started = time.perf_counter()
                try:
                    return inner(*args, **kwargs)
                finally:
                    self.parts[name] += time.perf_counter() - started

            setattr(owner, method, timed)

    runtime.set_seed(0)
    clock = Clock()
    sizes = {"per_device_train_batch_size": batch, "max_steps": steps, "logging_steps": 1000}
    with tempfile.TemporaryDirectory() as folder:
        trainer, first = built(kind, rows[: steps * batch], profile, folder, [clock], **sizes)
        prompts = [list(row["input_ids"]) for row in trainer.train_dataset]
        lengths, shared = list(map(len, prompts)), generation.shared_prefix(prompts)
        graded = [sum(label != -100 for label in row["labels"]) for row in trainer.train_dataset]
        clock.part(trainer.model.get_base_model().model, "forward", "layers forward")
        clock.part(trainer, "compute_loss", "head and loss")
        clock.part(trainer.accelerator, "backward", "backward")
        trainer.train()
    warm = min(WARM_UP if kind.startswith("stock") else 3 * WARM_UP, steps // 3)
    share = (steps - warm) / steps
    kept, tokens = clock.steps[warm:], sum(lengths) * share
    parts = {name: 1000 * sum(step[name] for step in kept) / tokens for name in kept[0]}
    del trainer
    torch._dynamo.reset()
    length = float(np.mean(lengths))
    once = 1 - shared * (batch - 1) / batch / length
    return parts, sum(graded) / sum(lengths), length, first, once


def loss_curve(kind: str, rows: list[dict], profile: runtime.Profile, seed: int, steps: int):
    """The training loss of each of the first steps, all kinds at the same rate on the same batches of four rows."""
    import torch

    runtime.set_seed(seed)
    same = training.hardware_arguments(profile) | {"learning_rate": 2e-3, "seed": seed}
    same |= {"per_device_train_batch_size": 4, "max_steps": steps, "logging_steps": 1}
    with tempfile.TemporaryDirectory() as folder:
        trainer, _ = built(kind, rows[: 4 * steps], profile, folder, warmup_steps=0.2, **same)
        trainer.train()
    torch._dynamo.reset()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def naive(model, tokenizer, asked: list[list[dict]]) -> list[str]:
    """The loop of a model card: one conversation after the other through ``model.generate``."""
    texts = []
    for messages in asked:
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt"
        )
        output = model.generate(
            **inputs,
            max_new_tokens=methods.MAX_NEW_TOKENS,
            do_sample=False,
            temperature=None,
            top_p=None,
            pad_token_id=tokenizer.pad_token_id,
        )
        new = output[0, inputs["input_ids"].shape[1] :]
        texts.append(tokenizer.decode(new, skip_special_tokens=True).strip())
    return texts


def generation_speed(name: str, profile: runtime.Profile, one_by_one: int, together: int) -> dict:
    """Seconds a ticket of ``generation.generate`` and of the naive loop, on validation tickets with the same weights.

    ``ratio`` compares them in the precision in which the weights are loaded (``from_pretrained`` keeps the saved one);
    ``ratio_fp32`` is against the naive loop in float32.
    """
    tokenizer = models.load_tokenizer(profile)
    adapter = None
    if methods.METHODS[name].adapter:
        adapter, _ = training.find_adapter(methods.METHODS[name].adapter, profile)
    model = models.load_model(profile, adapter)
    model = model.merge_and_unload() if adapter else model
    rows = data.tickets("validation")[:together]
    asked = methods.conversations(methods.METHODS[name], rows)
    few = list(range(0, together, max(1, together // one_by_one)))[:one_by_one]
    started = time.perf_counter()
    ours = generation.generate(model, tokenizer, asked, methods.MAX_NEW_TOKENS)
    fast = (time.perf_counter() - started) / len(asked)
    slow, texts = [], []
    for prepare in (lambda: model, model.float):  # .float() changes the model itself: last
        weights = prepare()
        started = time.perf_counter()
        texts.append(naive(weights, tokenizer, [asked[i] for i in few]))
        slow.append((time.perf_counter() - started) / len(few))
    picked = [rows[i] for i in few]
    verdicts = [evaluation.score_all(t, picked) for t in ([ours[i].text for i in few], texts[0])]
    return {
        "seconds_a_ticket": fast,
        "naive_seconds_a_ticket": slow[0],
        "naive_fp32_seconds_a_ticket": slow[1],
        "ratio": slow[0] / fast,
        "ratio_fp32": slow[1] / fast,
        "same_score": float(np.mean([a == b for a, b in zip(*verdicts)])),
        "tickets": [one_by_one, together],
    }


def retrieval_speed(quick: bool) -> dict:
    """Index and query times over growing crowds of pages (lesson 02, section 2.3), on 40 validation tickets."""
    print("retrieval", flush=True)
    sizes = (100, 1_000, 10_000, 100_000) if quick else (100, 1_000, 10_000, 100_000, 1_000_000)
    pages = retrieval.embed([section.passage for section in data.handbook()])
    asked = [row["ticket"] for row in data.tickets("validation")[:40]]
    curve = indexes.scale_curve(pages, asked, sizes)
    at_1e5 = next(line["query_p50_ms"] for line in curve if line["sections"] == 100_000)
    return {"retrieval": curve, "retrieval_p50_ms_1e5": at_1e5}


def write(result: dict, keep: bool) -> Path:
    """Write ``runs/bench.json`` (and ``data/bench.json``, if kept), each whole or not at all."""
    path = runtime.runs_dir() / "bench.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    for target in (path, data.data_dir() / "bench.json") if keep else (path,):
        part = target.with_suffix(".part")
        part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        os.replace(part, target)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="under three minutes, noisier")
    parser.add_argument(
        "--retrieval", action="store_true", help="retrieval alone, in the last result's place"
    )
    parser.add_argument(
        "--keep", action="store_true", help="write data/bench.json, too (lesson 04)"
    )
    options = parser.parse_args()
    quick = options.quick
    started = time.perf_counter()
    profile = runtime.start()
    if options.retrieval:
        last = runtime.runs_dir() / "bench.json"
        if not last.exists():
            parser.error(f"{last} is not there yet: run the whole bench first")
        known = json.loads(last.read_text(encoding="utf-8"))
        print(f"written to {write(known | retrieval_speed(quick), options.keep)}")
        return
    result: dict = {
        "machine": str(runtime.detect()),
        "versions": runtime.versions(),
        "quick": quick,
    }
    adapter, which = training.find_adapter("sft-rag", profile)  # refuses a model without one
    rows = methods.training_rows(methods.SECTIONS_K)
    config = models.load_model(profile).config

    parts, counted = {}, {}
    plan = {"stock-fp32": (3, 8), "stock-bf16": (4, 8), "lean": (12, 8)}
    if not quick:
        plan = {"stock-fp32": (6, 8), "stock-bf16": (10, 8), "lean": (48, 8)}
        plan |= {"lean-fp32": (24, 8), "lesson": (48, 8)}
    for kind, (steps, batch) in plan.items():
        print(f"training, {kind}: {steps} steps of {batch} rows", flush=True)
        parts[kind], *counted[kind] = train_parts(kind, rows, profile, steps, batch)
    speeds = {kind: 1000 / sum(seconds.values()) for kind, seconds in parts.items()}
    graded, length, first, once = counted["lean"]
    peak = peak_flops(profile.dtype)
    needed = needed_flops(config, first, 16, once, graded, length) * speeds["lean"]
    result |= {
        "train_tokens_per_second": speeds,
        "train_seconds_per_1000_tokens": parts,
        "train_vs_stock_fp32": speeds["lean"] / speeds["stock-fp32"],
        "train_vs_stock_bf16": speeds["lean"] / speeds["stock-bf16"],
        "peak_gflops": peak / 1e9,
        "train_gflops": needed / 1e9,
        "train_fraction_of_peak": needed / peak,
    }
    if "lean-fp32" in speeds:
        result["train_vs_stock_without_bf16"] = speeds["lean-fp32"] / speeds["stock-fp32"]
    if not quick:
        curves = {}
        for kind in ("stock-bf16", "lean"):
            print(f"loss curves, {kind}", flush=True)
            curves[kind] = [loss_curve(kind, rows, profile, seed, STEPS) for seed in SEEDS]
        gap = np.abs(np.subtract(curves["lean"], curves["stock-bf16"])).mean()
        spread = np.std(curves["stock-bf16"], axis=0, ddof=1).mean()
        result |= {"loss_curves": curves, "loss_curve_gap": float(gap)}
        result["loss_curve_spread_of_seeds"] = float(spread)
    for name, key in (("sft-rag", "short"), ("few-shot", "fewshot")):
        print(f"generation, {name}", flush=True)
        found = generation_speed(name, profile, 2 if quick else 6, 32 if quick else 246)
        result |= {f"eval_vs_naive_{key}": found["ratio"], f"eval_{key}": found}
    result |= retrieval_speed(quick)
    record = json.loads((adapter / "training.json").read_text(encoding="utf-8"))
    result |= {"sft_seconds": record.get("seconds"), "sft_adapter": which}
    demo = labs.known(profile).get(labs.key_of(labs.settings(**labs.RUNS["demo"][0]), profile))
    result["demo_sft_seconds"] = demo and demo["train_seconds"]  # lesson 04's DEMO
    result["demo_resolved"] = demo and demo["validation"]["resolved"]["value"]
    lessons = runtime.runs_dir() / "lessons.json"
    known = json.loads(lessons.read_text(encoding="utf-8")) if lessons.exists() else {}
    result["run_seconds"] = known.get("total", {}).get("seconds")  # of a whole `make run`
    code = "import time; t = time.perf_counter(); import helpers; print(time.perf_counter() - t)"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=runtime.project_root(), capture_output=True, text=True
    )
    result["import_helpers_ms"] = 1000 * float(out.stdout)
    result["peak_rss_gb"] = runtime.peak_memory_gb()
    result["bench_seconds"] = time.perf_counter() - started

    path = write(result, options.keep)
    print(f"\n{result['machine']}")
    for key, value in result.items():
        if isinstance(value, float):
            print(f"{key:26} {value:12,.2f}")
    for kind, speed in speeds.items():
        print(f"{'training, ' + kind:26} {speed:12,.0f} tokens/s")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
