"""Train one adapter for each setting, score it on validation, and add a line to ``data/sweep.jsonl`` (lesson 04, section 4.9).

``python -m benchmarks.sweep --adapter sft-rag --epochs 2 --learning-rate 2e-3`` runs one setting; without options it runs the defaults
and each change of the list below, skipping what the file already holds. The test set is not touched.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time

from helpers import data, evaluation, methods, models, runtime, training

DEFAULTS = {
    "adapter": "sft-rag",
    "rank": 16,
    "learning_rate": 2e-3,
    "epochs": 1.0,
    "batch": 4,
    "first_layer": 10,
    "other_figures": 0.0,
    "rows": 1_600,
    "seed": 0,
}
CHANGES = [
    {},
    {"first_layer": 0},
    {"batch": 8},
    {"learning_rate": 1e-3},
    {"other_figures": 0.5},
    {"learning_rate": 4e-3},
    {"first_layer": 15},
    {"rank": 4},
]
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def run(setting: dict, profile: runtime.Profile) -> dict:
    """Train and score one setting; returns the line."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig

    runtime.set_seed(setting["seed"])
    method = methods.METHODS[setting["adapter"]]
    rows = methods.training_rows(method.sections, other_figures=setting["other_figures"])
    rows = rows[: setting["rows"]]
    model = models.load_model(profile)
    tokenizer = models.load_tokenizer(profile)
    with tempfile.TemporaryDirectory() as folder:
        trainer = training.LeanSFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=folder,
                per_device_train_batch_size=setting["batch"],
                num_train_epochs=setting["epochs"],
                learning_rate=setting["learning_rate"],
                lr_scheduler_type="cosine",
                warmup_steps=0.05,
                max_length=512,
                save_strategy="no",
                logging_steps=20,
                seed=setting["seed"],
                **training.hardware_arguments(profile),
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=LoraConfig(
                r=setting["rank"],
                lora_alpha=2 * setting["rank"],
                target_modules=LINEAR,
                layers_to_transform=list(
                    range(setting["first_layer"], model.config.num_hidden_layers)
                ),
                task_type="CAUSAL_LM",
            ),
        )
        training.make_lean(trainer, profile)
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
        trainer.model.save_pretrained(folder)
        model = models.load_model(profile, folder).merge_and_unload()
    validation = data.tickets("validation")
    asked = methods.conversations(method, validation)
    replies = methods.generate(
        model, tokenizer, asked, methods.MAX_NEW_TOKENS, progress="validation"
    )
    scores = evaluation.score_all([reply.text for reply in replies], validation)
    return {
        **setting,
        "rows": len(rows),
        **evaluation.summary(scores),
        "train_seconds": round(seconds),
        "train_tokens": int(trainer._total_train_tokens),
        "data_sha256": data.data_sha256(),
        "model": profile.model,
        "versions": runtime.versions(),
        "machine": str(runtime.detect()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in DEFAULTS.items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value)
    options = vars(parser.parse_args())
    settings = [options] if options != DEFAULTS else [DEFAULTS | change for change in CHANGES]
    profile = runtime.start()
    path = data.data_dir() / "sweep.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    known = [json.loads(line) for line in lines]
    for setting in settings:
        asked = {key: value for key, value in setting.items() if key != "rows"}
        if any(asked.items() <= line.items() and setting["rows"] >= line["rows"] for line in known):
            continue
        line = run(setting, profile)
        from helpers.scoreboard import append_line

        append_line(path, json.dumps(line, ensure_ascii=False))
        rate = line["resolved"]
        print(
            f"{ {key: line[key] for key in DEFAULTS} }: resolved {rate['value']:.1%} in {line['train_seconds']} s"
        )


if __name__ == "__main__":
    main()
