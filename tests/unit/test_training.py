import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from helpers import data, models, runtime, training

PROFILE = runtime.Profile("cpu", runtime.EMBEDDED, "float32", False, "cpu", "test")
LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")


@pytest.fixture(scope="module")
def tokenizer():
    return models.load_tokenizer(PROFILE)


@pytest.fixture(scope="module")
def rows():
    return [
        {
            "prompt": data.messages(row["ticket"], data.SHORT_PROMPT),
            "completion": [{"role": "assistant", "content": data.dumps(row["reply"])}],
        }
        for row in data.tickets("validation")[:8]
    ]


@pytest.fixture(scope="module")
def build(tiny_llama):
    def make(trainer_class, tokenizer, rows, folder, lora=LORA, **options):
        arguments = {
            "save_strategy": "no",
            "max_steps": 2,
            "disable_tqdm": True,
            "per_device_train_batch_size": 4,
        }
        return trainer_class(
            model=tiny_llama(vocab_size=len(tokenizer)),
            args=SFTConfig(
                output_dir=str(folder),
                **{**training.hardware_arguments(PROFILE), **arguments, **options},
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=lora,
        )

    return make


def test_the_lean_loss_and_its_gradients_are_the_plain_ones_in_fp32(
    build, tokenizer, rows, tmp_path
):
    found = []
    for trainer_class in (SFTTrainer, training.LeanSFTTrainer):
        trainer = build(trainer_class, tokenizer, rows, tmp_path)
        batch = next(iter(trainer.get_train_dataloader()))
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        found.append(
            (
                loss.item(),
                [p.grad.clone() for p in trainer.model.parameters() if p.grad is not None],
            )
        )
    (plain, plain_grads), (lean, lean_grads) = found
    assert lean == pytest.approx(plain, rel=1e-5)
    assert len(plain_grads) == len(lean_grads) > 0
    for a, b in zip(plain_grads, lean_grads):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_the_lean_loss_divides_by_the_tokens_of_the_whole_accumulated_batch(
    build, tokenizer, rows, tmp_path
):
    trainer = build(training.LeanSFTTrainer, tokenizer, rows, tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    mean = trainer.compute_loss(trainer.model, dict(batch))
    count = (batch["labels"][:, 1:] != -100).sum()
    half = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=2 * count)
    assert half.item() == pytest.approx(mean.item() / 2, rel=1e-5)


def test_an_evaluation_reports_the_same_loss_as_the_plain_trainer(build, tokenizer, rows, tmp_path):
    plain, lean = (
        build(c, tokenizer, rows, tmp_path) for c in (SFTTrainer, training.LeanSFTTrainer)
    )
    batch = next(iter(plain.get_train_dataloader()))
    losses = [
        trainer.prediction_step(trainer.model, dict(batch), True)[0].item()
        for trainer in (plain, lean)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_steps_smaller_than_a_bf16_spacing_are_not_lost():
    weight = torch.nn.Parameter(torch.full((4,), 1.0, dtype=torch.bfloat16))
    optimizer = training.master_adamw([weight], lr=1e-4, weight_decay=0.0)
    for _ in range(200):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        optimizer.zero_grad()
    assert weight[0].item() == pytest.approx(0.98, abs=0.005)
    plain = torch.nn.Parameter(torch.full((4,), 1.0, dtype=torch.bfloat16))
    lossy = torch.optim.AdamW([plain], lr=1e-4, weight_decay=0.0)
    for _ in range(200):
        plain.grad = torch.ones_like(plain)
        lossy.step()
    assert plain[0].item() == 1.0


BF16 = runtime.Profile("cpu", runtime.EMBEDDED, "bfloat16", False, "cpu", "test")


@pytest.mark.parametrize("profile", [PROFILE, BF16], ids=["fp32", "bf16"])
def test_an_interrupted_run_goes_on_from_its_last_whole_checkpoint(
    build, tokenizer, rows, tmp_path, profile
):
    steps = {"save_strategy": "steps", "save_steps": 1, "max_steps": 3}
    first = build(training.LeanSFTTrainer, tokenizer, rows, tmp_path, **steps)
    training.make_lean(first, profile)
    first.train()
    newest = training.last_checkpoint(tmp_path)
    assert newest.endswith("checkpoint-3")
    (tmp_path / "checkpoint-3" / "optimizer.pt").unlink()
    whole = training.last_checkpoint(tmp_path)
    assert whole.endswith("checkpoint-2") and not (tmp_path / "checkpoint-3").exists()
    second = build(training.LeanSFTTrainer, tokenizer, rows, tmp_path, max_steps=3)
    training.make_lean(second, profile)
    second.train(resume_from_checkpoint=whole)
    assert second.state.global_step == 3
    for a, b in zip(first.model.parameters(), second.model.parameters()):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=1e-3)


def test_no_checkpoint_means_a_fresh_start(tmp_path):
    assert training.last_checkpoint(tmp_path / "none") is None
    assert training.last_checkpoint(tmp_path) is None


def test_a_saved_adapter_is_whole_and_found_again(build, tokenizer, rows, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKSHOP_RUNS", str(tmp_path))
    trainer = build(training.LeanSFTTrainer, tokenizer, rows, tmp_path / "checkpoints")
    folder = training.adapter_dir("sft", "0123456789ab")
    folder.parent.mkdir(parents=True)
    training.save_adapter(trainer, folder, PROFILE, seconds=1.0)
    assert training.find_adapter("sft", PROFILE) == (folder, "trained here")
    assert list(folder.parent.glob("*.part")) == []
    assert runtime.EMBEDDED in (folder / "adapter_config.json").read_text()


def test_an_adapter_of_other_data_is_not_taken(build, tokenizer, rows, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKSHOP_RUNS", str(tmp_path))
    trainer = build(training.LeanSFTTrainer, tokenizer, rows, tmp_path / "checkpoints")
    folder = training.adapter_dir("sft", "0123456789ab")
    folder.parent.mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(training, "data_sha256", lambda: "other")
        training.save_adapter(trainer, folder, PROFILE, seconds=1.0)
    assert training.find_adapter("sft", PROFILE)[1] != "trained here"


def test_an_adapter_of_a_dry_run_serves_dry_runs_only(
    build, tokenizer, rows, tmp_path, monkeypatch
):
    monkeypatch.setenv("WORKSHOP_RUNS", str(tmp_path))
    monkeypatch.setenv("WORKSHOP_FAST", "1")
    trainer = build(training.LeanSFTTrainer, tokenizer, rows, tmp_path / "checkpoints")
    folder = training.adapter_dir("sft", "0123456789ab")
    folder.parent.mkdir(parents=True)
    training.save_adapter(trainer, folder, PROFILE, seconds=1.0)
    assert training.find_adapter("sft", PROFILE) == (folder, "trained here")
    monkeypatch.setenv("WORKSHOP_FAST", "0")
    assert training.find_adapter("sft", PROFILE)[1] != "trained here"


def test_a_ready_made_adapter_of_other_data_says_so(monkeypatch):
    monkeypatch.setattr(training, "data_sha256", lambda: "other")
    assert training.find_adapter("sft", PROFILE, trained=False)[1] == "ready-made, for other data"


def test_a_run_has_the_same_key_again_and_another_with_another_rate(rows, tmp_path):
    common = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False}
    arguments = [SFTConfig(**common, learning_rate=rate) for rate in (1e-3, 1e-3, 2e-3)]
    keys = [training.run_key(LORA, a, PROFILE, rows) for a in arguments]
    assert keys[0] == keys[1] != keys[2]
    assert training.run_key(LORA, arguments[0], PROFILE, rows[:4]) != keys[0]


def test_the_loss_in_blocks_is_the_plain_one_with_its_gradients():
    torch.manual_seed(0)
    hidden, head = torch.randn(300, 16), torch.randn(50, 16)
    labels = torch.randint(0, 50, (300,))
    found = []
    for loss in (
        lambda h, w: training.completion_loss(h, w, labels, rows=128),
        lambda h, w: torch.nn.functional.cross_entropy(h @ w.T, labels, reduction="sum"),
    ):
        h, w = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        value = loss(h, w)
        (value / 7).backward()
        found.append((value.detach(), h.grad, w.grad))
    for lean, plain in zip(*found):
        torch.testing.assert_close(lean, plain, rtol=1e-4, atol=1e-4)


def test_the_loss_in_blocks_leaves_a_frozen_head_alone():
    hidden, head = torch.randn(5, 4, requires_grad=True), torch.randn(9, 4)
    training.completion_loss(hidden, head, torch.arange(5)).backward()
    assert hidden.grad is not None and head.grad is None


def test_the_trainer_prints_no_dictionaries_and_trims_its_memory(
    build, tokenizer, rows, tmp_path, capsys
):
    trainer = build(training.LeanSFTTrainer, tokenizer, rows, tmp_path, logging_steps=1)
    trimmed = []
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, training.TrimMemory):
            callback.every, callback.trim = 1, trimmed.append
    trainer.train()
    assert len(trimmed) == 4  # the start, two steps and the end
    assert "grad_norm" not in capsys.readouterr().out
