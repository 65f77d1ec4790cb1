import json
import os
import subprocess
import sys

import pytest
import yaml

from helpers import models, runtime, train

ROOT = runtime.project_root()
PROFILE = runtime.Profile("cpu", runtime.EMBEDDED, "float32", False, "cpu", "test")
GOOD = {"name": "tiny", "sft": {"learning_rate": 2e-2}}


def write(tmp_path, settings):
    path = tmp_path / "run.yaml"
    path.write_text(settings if isinstance(settings, str) else yaml.safe_dump(settings))
    return path


def test_the_lessons_file_is_accepted_and_names_the_lessons_settings():
    config = train.load_config(ROOT / "configs" / "sft.yaml")
    assert (config["global_batch"], config["first_layer"]) == (4, 10)
    assert config["sft"]["learning_rate"] == 2e-3 and config["rows"]["sections"] == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"batch": 4}, "unknown key 'batch'; allowed are .*global_batch"),
        ({"name": None}, "'name' is None"),
        ({"name": 3}, r"'name' is 3 \(int\); expected str"),
        ({"global_batch": "four"}, r"'global_batch' is 'four' \(str\); expected int"),
        ({"global_batch": True}, r"'global_batch' is True \(bool\)"),
        ({"dtype": "int8"}, "'int8'; one of float32"),
        ({"first_layer": 10}, "'first_layer' is 10, .*give lora: target_modules"),
        ({"rows": {"section": 1}}, "rows: unknown key 'section'; allowed are limit"),
        ({"lora": {"rank": 8}}, "lora: unknown key 'rank'"),
        ({"lora": {"r": "8"}}, "lora: 'r' is '8'"),
        ({"sft": {"max_steps": 1.5}}, r"sft: 'max_steps' is 1.5 \(float\); expected int"),
        ({"lora": {"layers_to_transform": [0]}}, "'layers_to_transform' is set from"),
        ({"sft": {"learning_rte": 1.0}}, "sft: unknown key 'learning_rte'"),
        ({"sft": {"per_device_train_batch_size": 2}}, "set from the other settings"),
        ({"sft": [1]}, r"'sft' is \[1\] \(list\); expected dict"),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_given_and_what_is_allowed(tmp_path, change, says):
    with pytest.raises(train.ConfigError, match=says):
        train.load_config(write(tmp_path, GOOD | change))


def test_a_rate_that_yaml_reads_as_text_is_explained(tmp_path):
    text = "name: tiny\nsft:\n  learning_rate: 2e-3\n"
    with pytest.raises(train.ConfigError, match="'2e-3' .*write 2.0e-3"):
        train.load_config(write(tmp_path, text))


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "name: [unclosed"])
def test_what_is_no_mapping_is_refused(tmp_path, text):
    with pytest.raises(train.ConfigError):
        train.load_config(write(tmp_path, text))


def test_a_missing_file_and_a_missing_name_are_said(tmp_path):
    with pytest.raises(train.ConfigError, match="no such file"):
        train.load_config(tmp_path / "none.yaml")
    with pytest.raises(train.ConfigError, match="'name' is missing"):
        train.load_config(write(tmp_path, {"global_batch": 4}))


def test_a_batch_that_does_not_divide_among_the_processes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(
        train.ConfigError, match="'global_batch' is 4; expected a multiple of the 3"
    ):
        train.train(train.load_config(write(tmp_path, GOOD)))


@pytest.fixture(scope="module")
def tiny_model(tiny_llama, tmp_path_factory):
    if not (models.models_dir() / runtime.EMBEDDED / "tokenizer.json").exists():
        pytest.skip("the embedded model's tokenizer is not unpacked: make setup")
    folder = tmp_path_factory.mktemp("model")
    tokenizer = models.load_tokenizer(PROFILE)
    tokenizer.save_pretrained(folder)
    tiny_llama(vocab_size=len(tokenizer)).save_pretrained(folder)
    return folder


def run(tmp_path, model, processes: int) -> tuple[dict, str]:
    output = tmp_path / f"adapter{processes}"
    settings = {
        "name": "tiny",
        "output": str(output),
        "model": str(model),
        "dtype": "float32",
        "rows": {"sections": 0, "split": "validation", "limit": 24},
        "lora": {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"},
        "sft": {"learning_rate": 2e-2, "logging_steps": 1, "num_train_epochs": 1.0},
    }
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, "-m", "helpers.train", "--config", str(write(tmp_path, settings))]
    env = os.environ | {"WORKSHOP_RUNS": str(tmp_path / "runs"), "OMP_NUM_THREADS": "1"}
    env["WORKSHOP_PROFILE"] = (
        "cpu"  # also where there is a GPU: two CPU processes are what is tested
    )
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(p.name for p in output.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "training.json",
    ]
    assert not list(tmp_path.glob("*.part"))
    return json.loads((output / "training.json").read_text()), done.stdout


def test_two_processes_draw_the_loss_curve_of_one_at_the_same_global_batch(tmp_path, tiny_model):
    found = {}
    for processes in (1, 2):
        record, printed = run(tmp_path, tiny_model, processes)
        logged = [entry for entry in record["history"] if "loss" in entry]
        found[processes] = [(entry["loss"], entry["grad_norm"]) for entry in logged]
        assert printed.count("24 rows, 4 a step") == 1  # only the first process prints
    assert len(found[1]) == 6 and found[1][0][0] > found[1][-1][0] + 0.1
    for one, two in zip(found[1], found[2], strict=True):
        assert two == pytest.approx(one, rel=1e-4)


@pytest.mark.parametrize("name", ["one_gpu", "ddp", "fsdp2", "deepspeed_zero3"])
def test_accelerate_reads_each_of_its_configurations(name):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    path = str(ROOT / "configs" / f"{name}.yaml")
    config = load_config_from_file(path)
    kinds = {"one_gpu": "NO", "ddp": "MULTI_GPU", "fsdp2": "FSDP", "deepspeed_zero3": "DEEPSPEED"}
    assert config.distributed_type.value == kinds[name]
    options = vars(launch_command_parser().parse_args(["--config_file", path, "script.py"]))
    section = config.fsdp_config or config.deepspeed_config
    assert bool(section) == (name in ("fsdp2", "deepspeed_zero3"))
    assert set(section) <= set(options), "a key that `accelerate launch` does not know"


def test_the_sharded_configurations_ask_for_version_2_and_stage_3():
    from accelerate.commands.config.config_args import load_config_from_file

    fsdp, deepspeed = (
        load_config_from_file(str(ROOT / "configs" / f"{name}.yaml"))
        for name in ("fsdp2", "deepspeed_zero3")
    )
    assert fsdp.fsdp_config["fsdp_version"] == 2
    assert deepspeed.deepspeed_config["zero_stage"] == 3
