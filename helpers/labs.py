"""Training runs that a lesson compares: each is a dictionary of settings, and its line is kept in ``data/labs.jsonl``.

Introduced in lesson 04, section 4.9. A line is keyed by its settings, the model and the data, so a line
that is there can be trusted and one that is not is made: ``make labs`` makes all of them, each in a process of its own, so
that its peak memory is its own. ``python -m helpers.labs rank=4 rows=400`` runs one.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from helpers import data, evaluation, methods, models, runtime, training

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ATTENTION = ALL[:4]
KINDS = ("lora", "rslora", "dora", "qlora", "full")
# The run that the others are set against: lesson 04's, on fewer rows.
# ``start``: "base", or "sft" to go on from the ready-made closed-book adapter (then the adapter's shape is that one's).
# ``test``: score on the frozen test set, too (only the runs that a table of results shows).
BASE = {
    "method": "sft-rag",
    "kind": "lora",
    "start": "base",
    "targets": "all",
    "rank": 16,
    "first_layer": 10,
    "learning_rate": 2e-3,
    "batch": 4,
    "epochs": 1.0,
    "rows": 400,
    "seed": 0,
    "test": False,
}
RUNS = {
    "kinds": [
        {"test": True},
        {"test": True, "targets": "attention"},
        {"test": True, "kind": "rslora"},
        {"test": True, "kind": "dora"},
        {"test": True, "kind": "qlora"},
        {"test": True, "kind": "full", "learning_rate": 2e-4},
    ],
    "learning rate": [
        *({"learning_rate": rate} for rate in (5e-4, 8e-3)),
        *({"kind": "full", "learning_rate": rate} for rate in (5e-5, 8e-4)),
    ],
    "epochs": [{"epochs": epochs} for epochs in (0.5, 2.0)],
    "rank": [{"rank": rank} for rank in (1, 4, 64)],
    "seed": [{"seed": seed} for seed in (1, 2)],
    "recipe": [{"first_layer": 0}, {"batch": 8}],
    # lesson 04's DEMO; its rows and its start were chosen on validation
    "demo": [{"start": "sft", "rows": 360}],
    "rows": [{"rows": rows} for rows in (25, 100, 1_600)],
    "half": [{"test": True, "rows": 1_600, "seed": seed} for seed in (1, 2)],
    # how many passes a closed-book run takes (lesson 04, section 4.9; lesson 07, section 7.2)
    "passes": [
        {"test": True, "method": "sft", "rows": 3_276, **change}
        for change in ({"epochs": 0.5, "seed": 1}, {"epochs": 0.5, "seed": 2}, {"epochs": 1.0})
    ],
    "one pass": [{"test": True, "rows": 3_276, "seed": seed} for seed in (1, 2)],
    # lesson 04's two adapters as the scoreboard has them, in other runs (lesson 05, section 5.2)
    "by heart": [
        {"test": True, "method": "sft", "rows": 3_276, "epochs": 2.0, "seed": seed}
        for seed in (0, 1, 2)
    ],
    "with pages": [{"test": True, "rows": 3_276, "epochs": 2.0, "seed": seed} for seed in (1, 2)],
}


def settings(**changes) -> dict:
    """``BASE`` with some settings changed; raises ValueError for one that it does not have, or a value that makes no sense."""
    if unknown := set(changes) - set(BASE):
        raise ValueError(f"no setting {sorted(unknown)}; there are {', '.join(BASE)}")
    asked = BASE | changes
    for name, allowed in {
        "kind": KINDS,
        "start": ("base", "sft"),
        "targets": ("all", "attention"),
    }.items():
        if asked[name] not in allowed:
            raise ValueError(f"{name} is {asked[name]!r}; one of {', '.join(allowed)}")
    if asked["method"] not in methods.METHODS or not methods.METHODS[asked["method"]].adapter:
        raise ValueError(f"method is {asked['method']!r}; one of sft, sft-rag")
    return asked


def key_of(setting: dict, profile: runtime.Profile) -> str:
    """12 hex digits over settings, model, precision, data and, where it goes on from one, the adapter: the same run has the same key.

    The embedded model's lines have the key of bf16 whatever machine made them (``machine`` in the line says which: some were made in
    float32 with 8-bit products), so that a machine which computes otherwise reads them too: that beats hours of training.
    """
    dtype = "bfloat16" if profile.model == runtime.EMBEDDED else profile.dtype
    # a run from the base model is the usual one; its lines were kept before there was another start
    setting = {k: v for k, v in setting.items() if (k, v) != ("start", "base")}
    asked = [setting, profile.model, dtype, data.data_sha256()]
    if "start" in setting:  # another adapter to go on from is another run
        weights = training.READY_MADE / setting["start"] / "adapter_model.safetensors"
        asked += [models.sha256(weights)] if weights.exists() else []
    text = json.dumps(asked, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def made_on(line: dict) -> str:
    """The processor that made a kept line, in short; seconds of two processors do not compare."""
    return line["machine"].partition(",")[0].replace("(R)", "")


def path() -> Path:
    """Where the lines are kept: ``data/labs.jsonl``; ``WORKSHOP_LABS`` names another file."""
    return Path(os.environ.get("WORKSHOP_LABS") or data.data_dir() / "labs.jsonl")


def known(profile: runtime.Profile) -> dict[str, dict]:
    """The kept lines by key; those of other data or another model are left out."""
    if not path().exists():
        return {}
    lines = [json.loads(line) for line in path().read_text(encoding="utf-8").splitlines()]
    return {line["key"]: line for line in lines if line["key"] == key_of(line["setting"], profile)}


def load_base(setting: dict, profile: runtime.Profile):
    """The model that a run starts from: for QLoRA in 4 bit (nf4, double quantisation), else as the profile says; with an adapter to go
    on from, if ``start`` says so.

    peft's ``prepare_model_for_kbit_training`` would turn what is not quantised into float32; bf16 needs no such care.
    """
    model = models.load_model(replace(profile, quantized=setting["kind"] == "qlora"))
    return started_from(model, setting["start"], profile)


def started_from(model, start: str, profile: runtime.Profile):
    """The model itself for ``start`` "base", else with the ready-made adapter of that name on it, to be trained on.

    Raises ``ModelError`` for a model that the adapter was not made with, or other data.
    """
    from peft import PeftModel

    if start == "base":
        return model
    if not training.has_ready_made(start, profile):
        raise models.ModelError(
            f"data/adapters has no '{start}' for {profile.model} and these data: train lesson 04 with "
            "WATCH = False, then training.keep_ready_made"
        )
    folder = training.ready_made(start, profile)
    return PeftModel.from_pretrained(model, folder, is_trainable=True)


def lora_config(setting: dict, layers: int):
    """The ``LoraConfig`` of a run, or None for full fine-tuning and where the run goes on from an adapter. ``layers``: how many the
    model has.
    """
    from peft import LoraConfig

    if setting["kind"] == "full" or setting["start"] != "base":
        return None
    return LoraConfig(
        r=setting["rank"],
        lora_alpha=2 * setting["rank"],
        target_modules=ALL if setting["targets"] == "all" else ATTENTION,
        layers_to_transform=list(range(setting["first_layer"], layers)),
        use_rslora=setting["kind"] == "rslora",
        use_dora=setting["kind"] == "dora",
        task_type="CAUSAL_LM",
    )


def build(
    setting: dict,
    profile: runtime.Profile,
    folder: str | Path,
    batch: int | None = None,
    accumulation: int = 1,
):
    """The trainer of one setting, ready to train. Its rows are the first ``rows`` of lesson 04's.

    ``batch`` rows at a time instead of the setting's, with ``accumulation`` batches a step, are for where memory ran out.
    """
    from datasets import Dataset
    from trl import SFTConfig

    runtime.set_seed(setting["seed"])
    sections = methods.METHODS[setting["method"]].sections
    tokenizer = models.load_tokenizer(profile)  # refuses a model without a chat template
    rows = methods.training_rows(sections)[: setting["rows"]]
    model = load_base(setting, profile)
    trainer = training.LeanSFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(folder),
            per_device_train_batch_size=batch or setting["batch"],
            gradient_accumulation_steps=accumulation,
            num_train_epochs=setting["epochs"],
            learning_rate=setting["learning_rate"],
            lr_scheduler_type="cosine",
            warmup_steps=0.05,
            max_length=512,
            save_strategy="no",
            logging_steps=20,
            disable_tqdm=True,
            seed=setting["seed"],
            **training.hardware_arguments(profile),
        ),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(methods.training_rows(sections, "validation")),
        processing_class=tokenizer,
        peft_config=lora_config(setting, model.config.num_hidden_layers),
        callbacks=[training.StepsBar()],
    )
    training.make_lean(trainer, profile)
    return trainer


def _scored(model, method: str, split: str, every: int, profile: runtime.Profile) -> dict:
    """Scores of a model on every n-th ticket of a split, and which tickets it resolved."""
    rows = data.tickets(split)[::every]
    asked = methods.conversations(methods.METHODS[method], rows)
    tokenizer = models.load_tokenizer(profile)
    replies = methods.generate(model, tokenizer, asked, methods.MAX_NEW_TOKENS, progress=split)
    scores = evaluation.score_all([reply.text for reply in replies], rows)
    return {
        **evaluation.summary(scores),
        "n": len(rows),
        "tickets": "".join("01"[score.resolved] for score in scores),
    }


def run(setting: dict, profile: runtime.Profile) -> dict:
    """Train one setting, score it on every second validation ticket (and on the test set if ``test``); returns its line."""
    with tempfile.TemporaryDirectory() as folder:

        def attempt(batch: int, accumulation: int):
            trainer = build(setting, profile, folder, batch, accumulation)
            trainer.train()
            return trainer

        trainer = training.halve_on_oom(attempt, setting["batch"])
        peak = runtime.peak_memory_gb()
        loss = trainer.evaluate()["eval_loss"]
        trainer.model.save_pretrained(folder)
        megabytes = models.folder_mb(folder)
        model = trainer.model.eval()
        if setting["kind"] in ("lora", "rslora", "dora"):
            model = models.load_model(profile, folder).merge_and_unload()
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    history = trainer.state.log_history
    return {
        "key": key_of(setting, profile),
        "setting": setting,
        "validation": _scored(model, setting["method"], "validation", 2, profile),
        "validation_loss": round(loss, 4),
        "test": _scored(model, setting["method"], "test", 1, profile) if setting["test"] else None,
        "train_seconds": next(x["train_runtime"] for x in history if "train_runtime" in x),
        "train_tokens": int(trainer._total_train_tokens),
        "trainable_parameters": sum(p.numel() for p in trained),
        "artefact_mb": round(megabytes, 2),
        "peak_memory_gb": round(peak, 2),
        "loss": [entry["loss"] for entry in history if "loss" in entry],
        "versions": runtime.versions(),
        "machine": str(runtime.detect()),
    }


def keep(setting: dict, profile: runtime.Profile, make) -> dict:
    """The kept line of a setting, or, where there is none, what ``make(setting, profile)`` returns, kept (not in a dry run)."""
    from helpers.scoreboard import append_line

    line = known(profile).get(key_of(setting, profile))
    if line is None:
        print(f"no kept run of these settings for {profile.model}; training it now (minutes)")
        line = make(setting, profile)
        if not runtime.fast():
            append_line(path(), json.dumps(line, ensure_ascii=False))
    return line


def other_seeds(profile: runtime.Profile) -> list[dict]:
    """The kept runs of the scoreboard's own two adapters, as rows for ``scoreboard.seeds`` (lesson 05).

    That of two passes by heart with seed 0 is another run than lesson 04's, too: there more was drawn before the adapter's first values.
    """
    lines, found = known(profile), []
    for change in (*RUNS["by heart"], *RUNS["with pages"]):
        if line := lines.get(key_of(settings(**change), profile)):
            row = {"method": line["setting"]["method"], "model": profile.model}
            found.append(
                row | {"adapter": "kept run", "seed": line["setting"]["seed"], **line["test"]}
            )
    return found


def result(profile: runtime.Profile, **changes) -> dict:
    """The line of a run: the kept one, or, where there is none, one made now and kept."""
    return keep(settings(**changes), profile, run)


def changes_of(words: list[str], base: dict) -> dict:
    """``name=value`` words from a shell, each value in the type that ``base`` has for it; ValueError if it has not that type."""
    changes = {}
    for word in words:
        name, _, value = word.partition("=")
        kind = type(base.get(name, ""))
        changes[name] = value == "True" if kind is bool else kind(value)
    return changes


def make_each(module: str, runs: list[list[str]]) -> None:
    """Run ``python -m module words`` for each list of words, one after another, so that each has its peak memory to itself.

    Says which one runs and how long all took. A run that fails raises CalledProcessError; those before it are kept.
    """
    started = time.perf_counter()
    for number, words in enumerate(runs, 1):
        spent = (time.perf_counter() - started) / 60
        print(f"[{number}/{len(runs)}, {spent:.0f} min] {' '.join(words)}", flush=True)
        subprocess.run([sys.executable, "-m", module, *words], check=True)
    print(f"{module}: {len(runs)} runs in {(time.perf_counter() - started) / 60:.1f} minutes")


def main(arguments: list[str]) -> int:
    """Without arguments every run of ``RUNS`` that is not there yet, each in its own process; with ``name=value`` ones, that run."""
    profile = runtime.start()
    if not arguments:
        missing = [
            [f"{name}={value}" for name, value in change.items()]
            for changes in RUNS.values()
            for change in changes
            if key_of(settings(**change), profile) not in known(profile)
        ]
        make_each("helpers.labs", missing)
        return 0
    try:
        line = result(profile, **changes_of(arguments, BASE))
    except ValueError as error:
        print(error)
        return 2
    rate = line["validation"]["resolved"]
    print(f"resolved {rate['value']:.1%} of validation after {line['train_seconds']:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
