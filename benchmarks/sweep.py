"""Train one adapter for each setting, score it on validation, and add a line to ``data/sweep.jsonl`` (lesson 04, section 4.9).

``python -m benchmarks.sweep --adapter sft-rag --epochs 2 --learning-rate 2e-3`` runs one setting; without options it runs the list
below, skipping what the file already holds. The test set is not touched.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time

from helpers import data, evaluation, methods, models, runtime, training

KEYS = ("adapter", "rank", "learning_rate", "epochs", "batch", "rows", "seed")
SETTINGS = [
    {"adapter": "sft-rag", "rank": 16, "learning_rate": 5e-4, "epochs": 1.0},
    {"adapter": "sft-rag", "rank": 16, "learning_rate": 1e-3, "epochs": 1.0},
    {"adapter": "sft-rag", "rank": 16, "learning_rate": 2e-3, "epochs": 1.0},
    {"adapter": "sft-rag", "rank": 16, "learning_rate": 4e-3, "epochs": 1.0},
    {"adapter": "sft-rag", "rank": 4, "learning_rate": 2e-3, "epochs": 1.0},
    {"adapter": "sft-rag", "rank": 16, "learning_rate": 2e-3, "epochs": 2.0},
]


def run(setting: dict, profile: runtime.Profile) -> dict:
    """Train and score one setting; returns the line."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig

    runtime.set_seed(setting["seed"])
    method = methods.METHODS[setting["adapter"]]
    rows = methods.training_rows(method.sections)[: setting["rows"]]
    tokenizer = models.load_tokenizer(profile)
    with tempfile.TemporaryDirectory() as folder:
        trainer = training.LeanSFTTrainer(
            model=models.load_model(profile),
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
                target_modules="all-linear",
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
        **{key: setting[key] for key in KEYS},
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
    parser.add_argument("--adapter", choices=("sft", "sft-rag"))
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = vars(parser.parse_args())
    common = {"batch": options["batch"], "rows": options["rows"], "seed": options["seed"]}
    settings = [options] if options["adapter"] else [{**common, **setting} for setting in SETTINGS]
    profile = runtime.start()
    path = data.data_dir() / "sweep.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    done = [tuple(json.loads(line)[key] for key in KEYS if key != "rows") for line in lines]
    for setting in settings:
        if tuple(setting[key] for key in KEYS if key != "rows") in done:
            continue
        line = run(setting, profile)
        from helpers.scoreboard import append_line

        append_line(path, json.dumps(line, ensure_ascii=False))
        rate = line["resolved"]
        print(
            f"{ {key: line[key] for key in KEYS} }: resolved {rate['value']:.1%} in {line['train_seconds']} s"
        )


if __name__ == "__main__":
    main()
