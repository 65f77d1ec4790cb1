import json
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from helpers import labs, models, runtime, training

PROFILE = runtime.Profile("cpu", runtime.EMBEDDED, "float32", False, "cpu", "test")


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A place for lines that is not the project's, with a function that puts one there."""
    monkeypatch.setattr(labs, "path", lambda: tmp_path / "labs.jsonl")

    def put(**changes):
        setting = labs.settings(**changes)
        line = {"key": labs.key_of(setting, PROFILE), "setting": setting, "mark": changes}
        with open(labs.path(), "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        return line

    return put


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rnak": 4}, "no setting .*rnak.*rank"),
        ({"kind": "prefix"}, "kind is 'prefix'; one of lora"),
        ({"start": "sft-rag"}, "start is 'sft-rag'; one of base, sft"),
        ({"targets": "mlp"}, "targets is 'mlp'; one of all, attention"),
        ({"method": "few-shot"}, "method is 'few-shot'; one of sft"),
    ],
)
def test_a_setting_that_makes_no_sense_says_what_is_allowed(changes, says):
    with pytest.raises(ValueError, match=says):
        labs.settings(**changes)


def test_every_listed_run_is_a_setting_of_its_own():
    keys = [
        labs.key_of(labs.settings(**change), PROFILE)
        for run in labs.RUNS.values()
        for change in run
    ]
    assert len(set(keys)) == len(keys)


def test_every_listed_run_is_kept_for_the_data_as_they_are():
    kept, runs = labs.known(PROFILE), [run for group in labs.RUNS.values() for run in group]
    missing = [run for run in runs if labs.key_of(labs.settings(**run), PROFILE) not in kept]
    assert missing == [], "a lesson would train them: make labs LESSON=06"


@pytest.mark.parametrize("method", ["sft", "sft-rag"])
def test_each_tuned_row_of_the_scoreboard_has_training_runs_of_two_other_seeds_beside_it(method):
    kept = labs.other_seeds(PROFILE)
    ready = json.loads((training.READY_MADE / method / "training.json").read_text())
    seeds = [ready["seed"]] + [row["seed"] for row in kept if row["method"] == method]
    assert len(set(seeds)) >= 3, seeds


def test_a_line_from_before_there_was_another_start_is_still_known():
    base = labs.settings()
    old = {name: value for name, value in base.items() if name != "start"}
    assert labs.key_of(old, PROFILE) == labs.key_of(base, PROFILE)
    assert labs.key_of(labs.settings(start="sft"), PROFILE) != labs.key_of(base, PROFILE)


def test_a_run_that_goes_on_from_an_adapter_has_no_new_one():
    assert labs.lora_config(labs.settings(start="sft"), layers=30) is None
    assert labs.lora_config(labs.settings(), layers=30) is not None


def test_a_run_may_go_on_from_the_ready_made_adapter(tiny_llama, monkeypatch, tmp_path):
    lora = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    made = get_peft_model(tiny_llama(), lora)
    made.save_pretrained(tmp_path / "sft")
    monkeypatch.setattr(training, "ready_made", lambda name, profile: tmp_path / name)
    monkeypatch.setattr(training, "has_ready_made", lambda name, profile: name == "sft")
    model = tiny_llama()
    assert labs.started_from(model, "base", PROFILE) is model
    trained = {
        name: weights
        for name, weights in labs.started_from(model, "sft", PROFILE).named_parameters()
        if weights.requires_grad
    }
    theirs = {name: weights for name, weights in made.named_parameters() if "lora" in name}
    assert trained and trained.keys() == theirs.keys()
    assert all(torch.equal(trained[name], weights) for name, weights in theirs.items())
    with pytest.raises(models.ModelError, match="no 'sft-rag' .* these data"):
        labs.started_from(model, "sft-rag", PROFILE)


def test_a_machine_without_bf16_reads_the_embedded_models_lines():
    half = replace(PROFILE, dtype="bfloat16")
    assert labs.key_of(labs.settings(), half) == labs.key_of(labs.settings(), PROFILE)


def test_the_key_changes_with_the_data_and_another_models_precision(monkeypatch):
    base = labs.key_of(labs.settings(), PROFILE)
    other = replace(PROFILE, model="some/model")
    keys = {labs.key_of(labs.settings(), replace(other, dtype=d)) for d in ("float16", "bfloat16")}
    assert len(keys | {base}) == 3
    monkeypatch.setattr(labs.data, "data_sha256", lambda: "other")
    assert labs.key_of(labs.settings(), PROFILE) != base


def test_a_run_that_goes_on_from_another_adapter_has_another_key(monkeypatch, tmp_path):
    monkeypatch.setattr(training, "READY_MADE", tmp_path)
    (tmp_path / "sft").mkdir()
    keys = set()
    for weights in (b"one", b"another"):
        (tmp_path / "sft" / "adapter_model.safetensors").write_bytes(weights)
        keys.add(labs.key_of(labs.settings(start="sft"), PROFILE))
        assert labs.key_of(labs.settings(), PROFILE) not in keys
    assert len(keys) == 2


def test_a_kept_line_is_read_and_no_other_is_taken_for_it(kept, monkeypatch):
    line = kept(rank=4)
    made = []
    monkeypatch.setattr(labs, "run", lambda setting, profile: made.append(setting) or {"new": 1})
    assert labs.result(PROFILE, rank=4) == line and not made
    assert labs.result(PROFILE, rank=8) == {"new": 1}
    assert [setting["rank"] for setting in made] == [8]


def test_a_line_of_other_data_is_left_out(kept, monkeypatch):
    kept(rank=4)
    assert len(labs.known(PROFILE)) == 1
    monkeypatch.setattr(labs.data, "data_sha256", lambda: "other")
    assert labs.known(PROFILE) == {}


@pytest.mark.parametrize("kind", labs.KINDS)
def test_each_kind_gets_its_own_adapter_configuration(kind):
    config = labs.lora_config(labs.settings(kind=kind, rank=4, first_layer=1), layers=3)
    if kind == "full":
        assert config is None
        return
    assert (config.r, config.lora_alpha, config.layers_to_transform) == (4, 8, [1, 2])
    assert (config.use_dora, config.use_rslora) == (kind == "dora", kind == "rslora")


def test_attention_alone_leaves_the_mlp_out():
    config = labs.lora_config(labs.settings(targets="attention"), layers=30)
    assert set(config.target_modules) == {"q_proj", "k_proj", "v_proj", "o_proj"}


def test_a_word_from_the_shell_gets_the_type_of_its_setting(kept, monkeypatch, capsys):
    seen = {}
    rate = {"validation": {"resolved": {"value": 0.5}}, "train_seconds": 1.0}
    monkeypatch.setattr(labs.runtime, "start", lambda: PROFILE)
    monkeypatch.setattr(labs, "result", lambda profile, **changes: seen.update(changes) or rate)
    assert labs.main(["rank=4", "learning_rate=1e-3", "test=True", "kind=full"]) == 0
    assert seen == {"rank": 4, "learning_rate": 1e-3, "test": True, "kind": "full"}
    assert labs.main(["rank=four"]) == 2
    assert "four" in capsys.readouterr().out


def test_a_run_trains_scores_and_goes_on_with_fewer_rows_at_a_time_where_memory_runs_out(
    tiny, monkeypatch, capsys
):
    monkeypatch.setattr("helpers.methods.MAX_NEW_TOKENS", 3)
    step, seen = training.LeanSFTTrainer.training_step, []

    def short_of_memory(self, model, inputs, *args):
        seen.append((len(inputs["input_ids"]), self.args.gradient_accumulation_steps))
        if seen[-1][0] > 2:
            raise MemoryError
        return step(self, model, inputs, *args)

    monkeypatch.setattr(training.LeanSFTTrainer, "training_step", short_of_memory)
    setting = labs.settings(kind="full", rows=8)
    line = json.loads(json.dumps(labs.run(setting, PROFILE)))
    said = capsys.readouterr()
    assert seen == [(4, 1)] + 4 * [(2, 2)] and "with 2" in said.out
    assert "training:" in said.err and "/2 " in said.err  # a bar of the steps
    assert line["key"] == labs.key_of(setting, PROFILE) and line["test"] is None
    assert line["validation"]["n"] == 123 == len(line["validation"]["tickets"])
    assert line["train_tokens"] > 0 and line["validation_loss"] > 0


def test_each_missing_run_has_a_process_of_its_own_and_a_failing_one_stops(monkeypatch, capsys):
    asked = []

    def run(command, check):
        asked.append(command[1:])
        if "rank=0" in command:
            raise labs.subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(labs.subprocess, "run", run)
    labs.make_each("helpers.labs", [["rank=1"], ["rank=4", "rows=25"]])
    assert asked == [["-m", "helpers.labs", "rank=1"], ["-m", "helpers.labs", "rank=4", "rows=25"]]
    out = capsys.readouterr().out
    assert "[2/2, 0 min] rank=4 rows=25" in out and "2 runs in 0.0 minutes" in out
    with pytest.raises(labs.subprocess.CalledProcessError):
        labs.make_each("helpers.labs", [["rank=0"], ["rank=1"]])
    assert len(asked) == 3
