"""What the experiments of lesson 07 share: training by lesson 04's recipe, the model as it serves, the line that is kept.

Introduced in lesson 07, section 7.2.
"""

from __future__ import annotations

import copy
import tempfile
import time

from helpers import int8, labs, models, runtime, training


def row(prompt: list[dict], completion: str) -> dict:
    """A row of prompt and completion, as ``SFTTrainer`` takes it."""
    return {"prompt": prompt, "completion": [{"role": "assistant", "content": completion}]}


def bits(flags) -> str:
    """Outcomes as text, "0110": one character for each question or ticket."""
    return "".join("01"[bool(flag)] for flag in flags)


def trainer_for(
    rows: list[dict],
    profile: runtime.Profile,
    folder,
    kind: str = "lora",
    start: str = "base",
    **arguments,
):
    """A trainer by lesson 04's recipe over rows of prompt and completion, ready to train; ``arguments`` of ``SFTConfig`` differ from it.

    LoRA of rank 16 on all linear maps of layers 10 to 29, or with ``start="sft"`` the ready-made closed-book adapter, trained on; with
    ``kind="full"`` every weight, at a tenth of the learning rate.
    """
    from datasets import Dataset
    from trl import SFTConfig

    recipe = {
        "per_device_train_batch_size": 4,
        "learning_rate": 2e-4 if kind == "full" else 2e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,
        "max_length": 512,
        "save_strategy": "no",
        "logging_steps": 10,
        "disable_tqdm": True,
        "seed": 0,
    }
    asked = recipe | arguments
    runtime.set_seed(asked["seed"])
    tokenizer = models.load_tokenizer(profile)  # refuses a model without a chat template
    model = models.load_model(profile)
    layers, setting = model.config.num_hidden_layers, labs.settings(kind=kind, start=start)
    trainer = training.LeanSFTTrainer(
        model=labs.started_from(model, start, profile),
        args=SFTConfig(output_dir=str(folder), **asked, **training.hardware_arguments(profile)),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=labs.lora_config(setting, layers),
        callbacks=[training.StepsBar()],
    )
    training.make_lean(trainer, profile)
    return trainer


def train(rows: list[dict], profile: runtime.Profile, callback=None, **arguments):
    """Train on rows, with ``arguments`` as for ``trainer_for``; returns the trainer and the seconds. Nothing is left on disk.

    ``callback(trainer)`` may return a ``TrainerCallback`` to add. Where memory runs out it begins again with half as many rows
    at a time (``training.halve_on_oom``), callback included.
    """
    with tempfile.TemporaryDirectory() as folder:

        def attempt(batch: int, accumulation: int):
            trainer = trainer_for(
                *(rows, profile, folder),
                **arguments,
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=accumulation,
            )
            if callback:
                trainer.add_callback(callback(trainer))
            started = time.perf_counter()
            trainer.train()
            return trainer, time.perf_counter() - started

        return training.halve_on_oom(attempt, arguments.pop("per_device_train_batch_size", 4))


def as_served(trainer):
    """A copy of the model as it stands, to generate with: adapter merged, layers neither compiled nor in 8 bit, in evaluation mode.

    A copy, so that training can go on: merging an adapter in place and taking it out again would round the base's weights each time.
    """
    model = copy.deepcopy(trainer.model)
    int8.thaw(model)  # or the merged weights would not be looked at
    model = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    vars(model).pop("forward", None)  # TRL's wrapper, which would still call the original
    model.set_attn_implementation("sdpa")
    return model.eval()


def line_of(
    setting: dict, profile: runtime.Profile, rows=(), trainer=None, seconds: float = 0.0, **found
) -> dict:
    """The line that is kept: what was found, and what the training cost (nothing, where there was none)."""
    history = trainer.state.log_history if trainer else []
    return {
        "key": labs.key_of(setting, profile),
        "setting": setting,
        **found,
        "rows": len(rows),
        "train_seconds": round(seconds, 1),
        "train_tokens": int(trainer._total_train_tokens) if trainer else 0,
        "peak_memory_gb": round(runtime.peak_memory_gb(), 2),
        "loss": [round(entry["loss"], 4) for entry in history if "loss" in entry],
        "versions": runtime.versions(),
        "machine": str(runtime.detect()),
    }
