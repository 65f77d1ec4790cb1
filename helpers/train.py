"""Lesson 04's training from one YAML file: ``python -m helpers.train --config configs/sft.yaml`` (docs/design.md, several processes).

The same file trains with one process or several: ``torchrun --standalone --nproc_per_node 2 -m helpers.train --config
configs/sft.yaml``. ``global_batch`` counts the rows of an optimiser step over all processes, and the order of the rows does not depend on
their number, so the loss curve does not either. Only the first process prints and writes.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path

from helpers import runtime

REQUIRED = object()
# name of a setting: (type, value where it is left out)
SETTINGS = {
    "name": (str, REQUIRED),
    "output": (str, ""),
    "model": (str, ""),
    "dtype": (str, ""),
    "rows": (dict, {}),
    "lora": (dict, {}),
    "first_layer": (int, 0),
    "global_batch": (int, 4),
    "sft": (dict, {}),
}
ROWS = {"sections": (int, 1), "split": (str, "train"), "limit": (int, sys.maxsize)}
DTYPES = ("float32", "bfloat16", "float16")
# what this module or another setting decides
TAKEN = ("output_dir", "per_device_train_batch_size", "gradient_accumulation_steps")


class ConfigError(ValueError):
    """A training file that cannot be used; the message names the key, what was given and what is allowed."""


def _checked(given: dict, allowed: dict, where: str) -> dict:
    """``given`` with defaults filled in. Raises ConfigError for an unknown key, a missing one, or a value of another type."""
    if unknown := sorted(set(given) - set(allowed)):
        raise ConfigError(
            f"{where}: unknown key {', '.join(map(repr, unknown))}; allowed are {', '.join(sorted(allowed))}"
        )
    filled = {}
    for key, (kind, default) in allowed.items():
        value = given.get(key, default)
        if value is REQUIRED:
            raise ConfigError(f"{where}: {key!r} is missing; give a {kind.__name__}")
        kinds = (int, float) if kind is float else kind
        right = isinstance(value, kinds) and isinstance(value, bool) == (kind is bool)
        if key in given and not right and kind is not object:
            hint = " (YAML reads 2e-3 as text; write 2.0e-3)" if kind is float else ""
            raise ConfigError(
                f"{where}: {key!r} is {value!r} ({type(value).__name__}); expected {kind.__name__}{hint}"
            )
        filled[key] = value
    return filled


def _arguments(given: dict, target: type, taken: tuple[str, ...], where: str) -> None:
    """The arguments of a library's dataclass, checked by name, and by type where it is declared as a plain one."""
    plain = {kind.__name__: kind for kind in (bool, int, float, str)}
    declared = {f.name: getattr(f.type, "__name__", f.type) for f in dataclasses.fields(target)}
    allowed = {name: (plain.get(kind, object), None) for name, kind in declared.items()}
    for key in taken:
        if key in given:
            raise ConfigError(f"{where}: {key!r} is set from the other settings; leave it out")
    _checked(given, allowed, where)


def load_config(path: str | Path) -> dict:
    """The settings of a YAML file, checked, with defaults filled in. Raises ConfigError."""
    import yaml
    from peft import LoraConfig
    from trl import SFTConfig

    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give a YAML file such as configs/sft.yaml")
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(given, dict):
        raise ConfigError(f"{path} holds a {type(given).__name__}; expected keys with values")
    config = _checked(given, SETTINGS, str(path))
    config["rows"] = _checked(config["rows"], ROWS, f"{path}, rows")
    _arguments(config["lora"], LoraConfig, ("layers_to_transform", "task_type"), f"{path}, lora")
    _arguments(config["sft"], SFTConfig, TAKEN, f"{path}, sft")
    if config["first_layer"] and not isinstance(config["lora"].get("target_modules"), list):
        raise ConfigError(
            f"{path}: 'first_layer' is {config['first_layer']}, and peft chooses layers only for a list of "
            "modules; give lora: target_modules: [q_proj, ...], or leave 'first_layer' out"
        )
    if config["dtype"] not in ("", *DTYPES):
        raise ConfigError(f"{path}: 'dtype' is {config['dtype']!r}; one of {', '.join(DTYPES)}")
    return config


def train(config: dict) -> Path:
    """Train the adapter that ``load_config``'s settings describe, and return its folder.

    Written to a temporary name and renamed: a folder that exists is whole. Raises ConfigError if ``output`` exists already
    or ``global_batch`` does not divide among the processes.
    """
    from datasets import Dataset
    from peft import LoraConfig
    from transformers.trainer_pt_utils import LengthGroupedSampler
    from trl import SFTConfig

    from helpers import methods, models, training

    class Trainer(training.LeanSFTTrainer):
        def _get_train_sampler(self, dataset=None):
            """Rows of like length together, in an order that follows from the seed and the global batch alone."""
            import torch

            if self.args.train_sampling_strategy != "group_by_length":
                return super()._get_train_sampler(dataset)
            generator = torch.Generator().manual_seed(self.args.seed)
            return LengthGroupedSampler(
                config["global_batch"], self.train_dataset, generator=generator
            )

    processes = int(os.environ.get("WORLD_SIZE", 1))
    each, left = divmod(config["global_batch"], processes)
    if left or not each:
        raise ConfigError(
            f"'global_batch' is {config['global_batch']}; expected a multiple of the {processes} processes"
        )
    profile = runtime.start(config["sft"].get("seed", 0))
    changes = {key: config[key] for key in ("model", "dtype") if config[key]}
    profile = dataclasses.replace(profile, **changes)
    arguments = {
        "save_strategy": "no",
        "logging_steps": 10,
        "ddp_find_unused_parameters": False,
        **training.hardware_arguments(profile),
        **config["sft"],
        "per_device_train_batch_size": each,
    }
    checkpoints = runtime.runs_dir() / "checkpoints"
    asked = SFTConfig(output_dir=str(checkpoints / config["name"]), **arguments)
    with asked.main_process_first():  # the first process fetches and caches, the others read
        # the tokenizer first: a model without a chat template is refused before its weights are read
        tokenizer = models.load_tokenizer(profile)
        model = models.load_model(profile)
        rows = methods.training_rows(config["rows"]["sections"], config["rows"]["split"])
    rows = rows[: config["rows"]["limit"]]
    upper = {}
    if config["first_layer"]:
        upper["layers_to_transform"] = list(
            range(config["first_layer"], model.config.num_hidden_layers)
        )
    lora = LoraConfig(task_type="CAUSAL_LM", **upper, **config["lora"])
    key = training.run_key(lora, asked, profile, rows)
    folder = Path(config["output"] or training.adapter_dir(config["name"], key))
    asked.output_dir = str(checkpoints / f"{config['name']}-{key}")
    if folder.exists():
        raise ConfigError(f"'output' {folder} exists; delete it or name another folder")
    trainer = Trainer(
        model=model,
        args=asked,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=lora,
        callbacks=[training.StepsBar()],
    )
    print("; ".join(training.make_lean(trainer, profile)))
    print(f"{len(rows)} rows, {config['global_batch']} a step from {processes} process(es)")
    result = trainer.train()
    if trainer.is_world_process_zero():
        folder.parent.mkdir(parents=True, exist_ok=True)
        seconds = result.metrics["train_runtime"]
        training.save_adapter(trainer, folder, profile, seconds, config=config)
    trainer.accelerator.wait_for_everyone()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(f"{trainer.state.global_step} steps, loss {losses[0]:.3f} to {losses[-1]:.3f}: {folder}")
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", required=True, help="a YAML file such as configs/sft.yaml")
    first = os.environ.get("RANK", "0") == "0"
    if not first:
        sys.stdout = open(os.devnull, "w")
    try:
        train(load_config(parser.parse_args().config))
    except ConfigError as error:
        if first:
            print(error, file=sys.stderr)
        return 2
    finally:
        import torch.distributed as distributed

        if distributed.is_initialized():
            distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
