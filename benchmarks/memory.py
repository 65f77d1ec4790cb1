"""The memory estimator against measurements, ours and published ones: ``python -m benchmarks.memory``.

Trains the embedded model for a few steps on this machine, full, LoRA and QLoRA, each in a fresh process, and appends the three lines to
``data/memory.jsonl``. What is compared: the largest resident set during loading and training, less the resident set just before the model
is loaded, when all libraries are imported and have trained a toy model once. glibc is told to give every large array back when it is freed
(``MALLOC_MMAP_THRESHOLD_``), so that the difference is what is held, not what the allocator keeps for later. QLoRA's difference holds one
thing more, which is not counted: the 16-bit file stays mapped after its matrices were quantised (0.21 GB here).

``python -m benchmarks.memory --gpu`` does it on a CUDA device instead, for the shapes of the models that the GPU profiles take, with random weights: what
a step holds and how long it takes does not depend on their values, so nothing is fetched. There the measure is torch's
``max_memory_allocated``, from loading on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace

import numpy as np
from transformers import TrainerCallback

from helpers import data, machine, memory, methods, models, runtime, training

BATCH, STEPS = 8, 4
GPU_STEPS, GPU_LENGTH, GPU_GRADED = 8, 512, 1 / 3
# (shape, method, rows, gradient checkpointing); a shape's profile on a T4 is QLoRA with checkpointing, on larger cards LoRA without
GPU_RUNS = (
    *(("SmolLM2-1.7B", "qlora", rows, True) for rows in (1, 4)),
    *(("SmolLM2-1.7B", "lora", rows, False) for rows in (1, 4)),
    ("SmolLM2-1.7B", "full", 4, True),
    *(("Qwen3-4B", "lora", rows, False) for rows in (1, 4)),
    *(("Qwen3-4B", method, 4, True) for method in ("lora", "qlora")),
)
EMBEDDED_ON_CPU = {"WORKSHOP_PROFILE": "cpu"}
GIB = 2**30


@dataclass(frozen=True)
class Published:
    """A peak that others measured, with the settings that decide it; ``why`` says what our estimate leaves out where it is off."""

    name: str
    shape: str
    gb: float
    measured: str
    source: str
    method: str
    batch: int
    length: int
    settings: dict = field(default_factory=dict)
    why: str = ""

    def estimate(self) -> memory.Memory:
        return memory.estimate(
            memory.SHAPES[self.shape], self.method, self.batch, self.length, **self.settings
        )


_XLAM = "https://github.com/chloe-mp/smollm2-xlam-function-calling: README.md (peak), train_xlam_peft_job.py (settings; longest row 1653 tokens)"
_PEFT = "https://github.com/huggingface/peft/tree/main/method_comparison/MetaMathQA/results, runs of June 2025: "
_TUNE = "https://github.com/pytorch/torchtune#optimization-flags, Llama 3.2 3B, A100, bf16, packed to 4096, batch 2"
_FMS = "https://github.com/foundation-model-stack/fms-acceleration: scripts/benchmarks/refs/a100_80gb.csv (peak), scenarios.yaml and defaults.yaml (settings); 4096 tokens a row follow from its tokens and steps a second"
_ATTENTION = {"targets": memory.LINEAR[:4], "checkpointing": True}
_FUSED = {"checkpointing": True, "accumulates": True, "dropout": True, "graded": 1.0}
_PAIR = {"rank": 32, "targets": ("q_proj", "v_proj")}
ALLOCATED, RESERVED = "torch max_memory_allocated", "torch memory_reserved"
PUBLISHED = (
    Published("1.7B LoRA", "SmolLM2-1.7B", 9.48, ALLOCATED, _XLAM, "lora", 8, 1653, _FUSED),
    Published(
        *("1.7B QLoRA", "SmolLM2-1.7B", 5.87, ALLOCATED, _XLAM, "qlora", 8, 1653),
        _FUSED | {"adapter_width": 2},
    ),
    Published(
        *("3B full", "Llama-3.2-3B", 33.573, RESERVED + ", 99th percentile"),
        *(_PEFT + "full-finetuning--llama-3.2-3B-lr_0.00001.json", "full", 4, 210),
    ),
    Published(
        *("3B full, packed", "Llama-3.2-3B", 60.0 * GIB / 1e9, "peak memory active"),
        *(_TUNE + ", row Packed Dataset", "full", 2, 4096, {"foreach": False}),
    ),
    Published(
        *("3B full, checkpointing", "Llama-3.2-3B", 24.9 * GIB / 1e9, "peak memory active"),
        *(_TUNE + ", row Activation Checkpointing", "full", 2, 4096),
        {"foreach": False, "checkpointing": True, "graded": 1.0},
    ),
    Published(
        *("3B LoRA", "Llama-3.2-3B", 11.869, RESERVED + ", mean over steps"),
        *(_PEFT + "lora--llama-3.2-3B-rank32.json; 840 tokens a step", "lora", 4, 210, _PAIR),
    ),
    Published(
        *("3B LoRA, whole run", "Llama-3.2-3B", 22.274, RESERVED + ", largest"),
        *(_PEFT + "lora--llama-3.2-3B-rank32.json", "lora", 4, 210, _PAIR),
        why="its largest value includes an evaluation that generates 50 replies at a time, and the longest "
        "training batch, whose length is not published",
    ),
    Published(
        *("7B full", "Mistral-7B", 72.972, ALLOCATED, _FMS + ", index 0", "full", 4, 4096),
        {"checkpointing": True},
    ),
    Published(
        *("7B LoRA", "Mistral-7B", 26.109, ALLOCATED, _FMS + ", index 12", "lora", 4, 4096),
        _ATTENTION,
    ),
    Published(
        *("7B LoRA, batch 8", "Mistral-7B", 37.099, ALLOCATED, _FMS + ", index 14", "lora"),
        *(8, 4096, _ATTENTION),
    ),
    Published(
        *("7B QLoRA", "Mistral-7B", 15.860, ALLOCATED, _FMS + ", index 36", "qlora", 4, 4096),
        _ATTENTION | {"double_quant": False},
    ),
    Published(
        *("7B LoRA, nvidia-smi", "Mistral-7B", 29731 * 2**20 / 1e9, "nvidia-smi memory.used"),
        *(_FMS + ", index 12", "lora", 4, 4096, _ATTENTION),
        why="nvidia-smi also counts the CUDA context and the blocks that the allocator keeps free",
    ),
)


def _rss() -> tuple[float, float]:
    """Bytes of this process's resident set now, and the largest since the mark was last reset (Linux)."""
    with open("/proc/self/status", encoding="ascii") as file:
        found = dict(line.split(":", 1) for line in file)
    return tuple(int(found[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))


def _reset_peak() -> None:
    """Free what can be freed, and let the largest resident set count from here (``proc(5)``, clear_refs)."""
    runtime.give_memory_back(collect=True)
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def measure(method: str) -> dict:
    """Train a few steps in this process; returns the line for ``data/memory.jsonl``, without the estimate."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig

    seen = []

    class Trainer(training.LeanSFTTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            labels = inputs["labels"][:, 1:]
            seen.append((*inputs["input_ids"].shape, float((labels != -100).float().mean())))
            return super().compute_loss(model, inputs, *args, **kwargs)

    profile = runtime.start()
    tokenizer = models.load_tokenizer(profile)
    rows = sorted(methods.training_rows(0), key=lambda row: -len(str(row)))[: BATCH * STEPS]

    def train(model, steps: int):
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(
                model=model,
                args=SFTConfig(
                    output_dir=folder,
                    per_device_train_batch_size=BATCH,
                    max_steps=steps,
                    save_strategy="no",
                    disable_tqdm=True,
                    **training.hardware_arguments(profile),
                ),
                train_dataset=Dataset.from_list(rows),
                processing_class=tokenizer,
                peft_config=None
                if method == "full"
                else LoraConfig(
                    r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
                ),
            )
            training.make_lean(trainer, profile, compiled=False)
            trainer.train()
        return trainer

    toy = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    train(LlamaForCausalLM(LlamaConfig(**toy, num_hidden_layers=1, vocab_size=len(tokenizer))), 2)
    _reset_peak()
    seen.clear()
    before, _ = _rss()
    trainer = train(models.load_model(replace(profile, quantized=method == "qlora")), STEPS)
    _, peak = _rss()
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    batch, length, graded = max(seen, key=lambda found: found[0] * found[1])
    return {
        "method": method,
        "batch": batch,
        "length": length,
        "graded": graded,
        "width": 2 if profile.dtype == "bfloat16" else 4,
        "trained_width": trained[0].element_size(),
        "trained_parameters": sum(p.numel() for p in trained),
        "rss_before_gb": before / 1e9,
        "measured_gb": (peak - before) / 1e9,
        "versions": runtime.versions(),
        "machine": str(runtime.detect()),
    }


def random_model(shape: str, folder: str) -> None:
    """Save a model of a shape with random bf16 weights and the embedded model's tokenizer: a folder for ``WORKSHOP_MODEL``."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

    of = memory.SHAPES[shape]
    kind = Qwen3Config if of.qk_norm else LlamaConfig
    tokenizer = models.load_tokenizer(runtime.choose_profile(machine.detect(), EMBEDDED_ON_CPU))
    config = kind(
        num_hidden_layers=of.layers,
        hidden_size=of.hidden,
        intermediate_size=of.intermediate,
        num_attention_heads=of.heads,
        num_key_value_heads=of.kv_heads,
        head_dim=of.head_dim,
        vocab_size=of.vocab,
        tie_word_embeddings=of.tied,
        max_position_embeddings=8192,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def measure_on_gpu(shape: str, method: str, rows: int, checkpointing: bool, folder: str) -> dict:
    """Train ``GPU_STEPS`` steps on random tokens on the first CUDA device; returns its line.

    ``folder`` holds the model (``random_model``). Rows are of ``GPU_LENGTH`` tokens, the last third of them graded; the trainer is lesson 04's.
    """
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig

    profile = replace(runtime.start(), model=folder, quantized=method == "qlora")
    tokenizer = models.load_tokenizer(profile)
    model = models.load_model(profile)
    loaded = torch.cuda.memory_allocated()
    graded = [int(place >= GPU_LENGTH * (1 - GPU_GRADED)) for place in range(GPU_LENGTH)]
    ids = torch.randint(1000, 40_000, (rows * GPU_STEPS, GPU_LENGTH)).tolist()
    ended = []

    class Clock(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            torch.cuda.synchronize()
            ended.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as output:
        trainer = training.LeanSFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=output,
                per_device_train_batch_size=rows,
                max_steps=GPU_STEPS,
                max_length=GPU_LENGTH,
                save_strategy="no",
                disable_tqdm=True,
                **training.hardware_arguments(profile) | {"gradient_checkpointing": checkpointing},
            ),
            train_dataset=Dataset.from_list(
                [{"input_ids": row, "completion_mask": graded} for row in ids]
            ),
            processing_class=tokenizer,
            peft_config=None
            if method == "full"
            else LoraConfig(
                r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
            callbacks=[Clock()],
        )
        training.make_lean(trainer, profile)
        trainer.train()
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    return {
        "shape": shape,
        "method": method,
        "batch": rows,
        "length": GPU_LENGTH,
        "graded": GPU_GRADED,
        "checkpointing": checkpointing,
        "width": 2,
        "trained_width": trained[0].element_size(),
        "trained_parameters": sum(p.numel() for p in trained),
        "loaded_gb": loaded / 1e9,
        "measured_gb": torch.cuda.max_memory_allocated() / 1e9,
        "reserved_gb": torch.cuda.max_memory_reserved() / 1e9,
        "seconds_a_step": float(np.median(np.diff(ended)[2:])),
        "profile": profile.name,
        "versions": runtime.versions(),
        "machine": torch.cuda.get_device_name(0),
    }


def estimate_of(line: dict) -> memory.Memory:
    """What ``helpers.memory`` says of a measured line's run."""
    if "shape" in line:
        return memory.estimate(
            memory.SHAPES[line["shape"]],
            line["method"],
            line["batch"],
            line["length"],
            adapter_width=line["trained_width"],
            checkpointing=line["checkpointing"],
            graded=line["graded"],
            foreach=False,
            autocast=True,
        )
    return memory.estimate(
        memory.SHAPES["SmolLM2-135M"],
        line["method"],
        line["batch"],
        line["length"],
        width=line["width"],
        adapter_width=line["trained_width"],
        optimizer="master" if line["trained_width"] == 2 else "adamw",
        graded=line["graded"],
        foreach=False,
    )


def name_of(line: dict) -> str:
    """A measured line's run in a few words: "135M lora", "4B lora, 4 x 512"."""
    if "shape" not in line:
        return f"135M {line['method']}"
    size, rows = line["shape"].split("-")[-1], f"{line['batch']} x {line['length']}"
    return f"{size} {line['method']}, {rows}" + ", checkpointing" * line["checkpointing"]


def main_gpu() -> None:
    """Measure each of ``GPU_RUNS`` in a process of its own, append the lines to ``runs/memory.jsonl``, and print them beside their estimates.

    A run that fails leaves its error on the screen and the others go on.
    """
    from helpers.scoreboard import append_line

    found = []
    for shape in dict.fromkeys(run[0] for run in GPU_RUNS):
        with tempfile.TemporaryDirectory() as folder:
            random_model(shape, folder)
            for run in (run for run in GPU_RUNS if run[0] == shape):
                code = f"import benchmarks.memory as m; print(m.json.dumps(m.measure_on_gpu(*{run!r}, {folder!r})))"
                command = [sys.executable, "-c", code]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
                if done.returncode:
                    print(*run, "failed", flush=True)
                    continue
                line = json.loads(done.stdout.splitlines()[-1])
                append_line(runtime.runs_dir() / "memory.jsonl", json.dumps(line))
                found.append(line)
                print(*run, f"{line['measured_gb']:.2f} GB", flush=True)
    print(f"{'':36}{'estimate':>10}{'measured':>10}{'ratio':>8}{'tokens/s':>10}")
    for line in found:
        estimated, measured = estimate_of(line).gb, line["measured_gb"]
        speed = line["batch"] * line["length"] / line["seconds_a_step"]
        print(
            f"{name_of(line):36}{estimated:10.2f}{measured:10.2f}{estimated / measured:8.2f}{speed:10.0f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--only", choices=memory.METHODS, help="measure one, print its line as JSON"
    )
    parser.add_argument(
        "--gpu", action="store_true", help="measure the GPU profiles' shapes on a CUDA device"
    )
    arguments = parser.parse_args()
    if only := arguments.only:
        print(json.dumps(measure(only)))
        return
    if arguments.gpu:
        main_gpu()
        return
    from helpers.scoreboard import append_line

    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}
    rows = []
    for method in memory.METHODS:
        command = [sys.executable, "-m", "benchmarks.memory", "--only", method]
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
        line = json.loads(done.stdout.splitlines()[-1])
        append_line(data.data_dir() / "memory.jsonl", json.dumps(line))
        rows.append((f"{name_of(line)}, here", estimate_of(line).gb, line["measured_gb"]))
    rows += [(row.name, row.estimate().gb, row.gb) for row in PUBLISHED]
    print(f"{'':28}{'estimate':>10}{'measured':>10}{'ratio':>8}")
    for name, estimated, measured in rows:
        print(f"{name:28}{estimated:10.2f}{measured:10.2f}{estimated / measured:8.2f}")


if __name__ == "__main__":
    main()
