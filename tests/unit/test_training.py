import copy
import multiprocessing
import os
import signal
from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import SFTConfig, SFTTrainer

from helpers import data, models, padding_free, runtime, training

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


@pytest.mark.parametrize("padded", [True, False])
def test_the_lean_loss_and_its_gradients_are_the_plain_ones_in_fp32(
    build, tokenizer, rows, tmp_path, padded
):
    found = []
    for trainer_class in (SFTTrainer, training.LeanSFTTrainer):
        trainer = build(trainer_class, tokenizer, rows, tmp_path)
        if trainer_class is training.LeanSFTTrainer and not padded:
            trainer.model.get_base_model().set_attn_implementation(padding_free.NAME)
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


@pytest.mark.parametrize("window", [None, 64])
def test_compiled_layers_come_without_padding_where_each_token_sees_all_before_it(
    build, tokenizer, rows, tmp_path, window
):
    trainer = build(training.LeanSFTTrainer, tokenizer, rows, tmp_path)
    config = trainer.model.get_base_model().config
    config.sliding_window = window
    said = training.make_lean(trainer, PROFILE, compiled=True)[-1]
    assert ("no padding" in said) is (window is None)
    assert config._attn_implementation == ("eager" if window else padding_free.NAME)


@pytest.mark.parametrize("compiled", [False, True])
def test_frozen_weights_multiply_in_8_bit_where_the_profile_says_so_and_layers_are_compiled(
    build, tokenizer, rows, tmp_path, monkeypatch, compiled
):
    asked = []
    monkeypatch.setattr(training.int8, "freeze", lambda model: asked.append(model) or 7)
    trainer = build(training.LeanSFTTrainer, tokenizer, rows, tmp_path)
    said = training.make_lean(trainer, replace(PROFILE, int8=True), compiled=compiled)[-1]
    assert ("7 frozen matrices multiply in 8 bit" in said) is compiled
    assert asked == [trainer.model.get_base_model()] * compiled
    training.make_lean(trainer, PROFILE, compiled=True)
    assert len(asked) == compiled


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


class KillAt(TrainerCallback):
    """Ends the process as a power cut would, when a step begins."""

    def __init__(self, step: int):
        self.step, self.begun = step, []

    def on_step_begin(self, args, state, control, **kwargs):
        self.begun.append(state.global_step + 1)
        if state.global_step + 1 == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def train_saving(model, rows, folder, kill_at=0):
    """Four steps of a saved model with a checkpoint after each, from the last one that is there; the weights at the end, and which
    steps were taken."""
    runtime.set_seed(0)
    watch = KillAt(kill_at)
    trainer = training.LeanSFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(model),
        args=SFTConfig(
            output_dir=str(folder),
            **{**training.hardware_arguments(PROFILE), "save_strategy": "steps", "save_steps": 1},
            **{"max_steps": 4, "per_device_train_batch_size": 2, "disable_tqdm": True},
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=models.load_tokenizer(PROFILE),
        peft_config=copy.deepcopy(LORA),
        callbacks=[watch],
    )
    training.make_lean(trainer, PROFILE, compiled=False)
    trainer.train(resume_from_checkpoint=training.last_checkpoint(folder))
    return [p.detach().clone() for p in trainer.model.parameters() if p.requires_grad], watch.begun


def test_a_run_whose_process_was_killed_ends_with_the_weights_of_one_that_was_not(
    tiny_llama, tokenizer, rows, tmp_path
):
    tiny_llama(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    asked = (tmp_path / "model", rows, tmp_path / "killed")
    child = multiprocessing.get_context("spawn").Process(target=train_saving, args=(*asked, 4))
    child.start()
    child.join(300)
    assert child.exitcode == -signal.SIGKILL
    assert training.last_checkpoint(asked[-1]).endswith("checkpoint-3")
    resumed, begun = train_saving(*asked)
    whole, _ = train_saving(tmp_path / "model", rows, tmp_path / "whole")
    assert begun == [4]
    for a, b in zip(resumed, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


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
    monkeypatch.setenv("WORKSHOP_SHARE", "0.5")
    assert training.find_adapter("sft", PROFILE)[1] != "trained here"
    monkeypatch.delenv("WORKSHOP_SHARE")
    monkeypatch.setenv("WORKSHOP_FAST", "0")
    assert training.find_adapter("sft", PROFILE)[1] != "trained here"


def test_a_ready_made_adapter_of_other_data_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKSHOP_RUNS", str(tmp_path))
    monkeypatch.setattr(training, "data_sha256", lambda: "other")
    assert training.find_adapter("sft", PROFILE)[1] == "ready-made, for other data"


def test_a_ready_made_adapter_is_the_trained_one_in_16_bit(
    build, tokenizer, rows, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "READY_MADE", tmp_path / "ready")
    monkeypatch.setenv("WORKSHOP_RUNS", str(tmp_path))
    trainer = build(training.LeanSFTTrainer, tokenizer, rows, tmp_path / "checkpoints")
    trained = training.save_adapter(trainer, tmp_path / "trained", PROFILE, seconds=1.0)
    kept = training.keep_ready_made(trained, "sft")
    assert training.find_adapter("sft", PROFILE) == (kept, "ready-made")
    assert sorted(p.name for p in kept.parent.iterdir()) == ["sft"]
    now, then = (load_file(f / "adapter_model.safetensors") for f in (kept, trained))
    assert now.keys() == then.keys()
    for name, weights in then.items():
        assert torch.equal(now[name], weights.to(torch.bfloat16))
    with pytest.raises(FileNotFoundError):
        training.keep_ready_made(tmp_path, "sft")
    assert training.origin(trained, PROFILE) == "trained here"
    assert training.origin(trained.with_name("sft-stopped"), PROFILE) == "stopped early"
    with pytest.raises(ValueError, match="not of a whole run"):
        training.keep_ready_made(trained.rename(tmp_path / "sft-stopped"), "sft")
    assert training.find_adapter("sft", PROFILE) == (kept, "ready-made")


def test_a_ready_made_adapter_serves_its_own_model_and_data_only(monkeypatch):
    assert training.has_ready_made("sft", PROFILE)
    assert not training.has_ready_made("sft", replace(PROFILE, model="some/model"))
    assert not training.has_ready_made("sft-pirate", PROFILE)
    monkeypatch.setattr(training, "data_sha256", lambda: "other")
    assert not training.has_ready_made("sft", PROFILE)


def test_another_model_gets_no_ready_made_adapter_and_hears_what_to_do():
    other = replace(PROFILE, model="some/model")
    with pytest.raises(models.ModelError, match="this is some/model: train"):
        training.ready_made("sft", other)
    with pytest.raises(models.ModelError, match="this is some/model: train"):
        training.find_adapter(
            "sft", other
        )  # nothing was trained, so no base model answers as "sft"
    with pytest.raises(models.ModelError, match="no whole 'sft-pirate': git checkout"):
        training.ready_made("sft-pirate", PROFILE)


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
    build, tokenizer, rows, tmp_path, capsys, monkeypatch
):
    trainer = build(training.LeanSFTTrainer, tokenizer, rows, tmp_path, logging_steps=1)
    trimmed = []
    monkeypatch.setattr(runtime, "give_memory_back", lambda collect=False: trimmed.append(collect))
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, training.TrimMemory):
            callback.every = 1
    trainer.train()
    assert len(trimmed) == 4  # the start, two steps and the end
    assert "grad_norm" not in capsys.readouterr().out


# The T4's trap: TRL gives the adapters of a 4-bit model bf16, and the gradient scaler of fp16 refuses it

T4 = runtime.Profile("t4", runtime.SMALL_GPU, "float16", True, "cuda", "test")


def test_qlora_adapters_are_float32_for_the_fp16_gradient_scaler(
    tiny_llama, tokenizer, rows, tmp_path
):
    tiny_llama(vocab_size=len(tokenizer), hidden_size=64).save_pretrained(tmp_path / "base")
    here = runtime.replace(T4, model=str(tmp_path / "base"), device="cpu")
    trainer = SFTTrainer(
        model=models.load_model(here),
        args=SFTConfig(
            output_dir=str(tmp_path / "run"), use_cpu=True, bf16=False, report_to="none"
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=copy.deepcopy(LORA),
    )
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.bfloat16}  # what TRL does; if not, the trap is gone
    done = training.make_lean(trainer, T4)
    assert {p.dtype for p in trained} == {torch.float32}
    assert "float32" in done[0]
    assert {p.dtype for p in trainer.model.parameters() if not p.requires_grad} >= {torch.uint8}


def test_an_adapter_on_a_4_bit_model_loads_in_the_profiles_precision(tiny_llama, tmp_path):
    from peft import get_peft_model

    base = tiny_llama(vocab_size=64, hidden_size=64)
    base.save_pretrained(tmp_path / "base")
    get_peft_model(base, copy.deepcopy(LORA)).save_pretrained(tmp_path / "adapter")
    here = runtime.replace(T4, model=str(tmp_path / "base"), device="cpu")
    model = models.load_model(here, adapter=tmp_path / "adapter")
    assert {p.dtype for p in model.parameters()} == {torch.float16, torch.uint8}


# Out of memory


def breaks_above(rows: int, message: str = "CUDA out of memory. Tried to allocate 2 GiB."):
    """An attempt that needs too much memory with more than so many rows at a time; it keeps what it was asked."""
    asked = []

    def attempt(batch, accumulation):
        asked.append((batch, accumulation))
        if batch > rows:
            raise torch.OutOfMemoryError(message)
        return "trained"

    return attempt, asked


def test_out_of_memory_halves_the_batch_doubles_accumulation_and_says_so(capsys):
    attempt, asked = breaks_above(1)
    assert training.halve_on_oom(attempt, 4) == "trained"
    assert asked == [(4, 1), (2, 2), (1, 4)]
    first, second = capsys.readouterr().out.splitlines()
    assert "out of memory with 4 rows" in first and "with 2" in first and "over 2" in first
    assert "out of memory with 2 rows" in second and "with 1" in second and "over 4" in second


def test_when_one_row_is_too_many_it_gives_up_and_says_what_to_do():
    attempt, asked = breaks_above(0)
    with pytest.raises(RuntimeError, match="one row at a time: close other kernels"):
        training.halve_on_oom(attempt, 2, 2)
    assert asked == [(2, 2), (1, 4)]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=lambda error: str(error)[:24],
)
def test_memory_that_runs_out_is_known_by_all_its_names(error):
    def attempt(batch, accumulation):
        if batch > 1:
            raise error
        return batch

    assert training.halve_on_oom(attempt, 2) == 1


def test_another_error_is_not_taken_for_a_lack_of_memory():
    def attempt(batch, accumulation):
        raise RuntimeError("expected scalar type Half but found Float")

    with pytest.raises(RuntimeError, match="scalar type"):
        training.halve_on_oom(attempt, 4)


def test_a_model_that_does_not_fit_alone_is_not_tried_with_fewer_rows():
    asked = []

    def attempt(batch, accumulation):
        asked.append(batch)
        raise models.ModelError("owner/name could not be loaded: CUDA out of memory.")

    with pytest.raises(models.ModelError, match="owner/name"):
        training.halve_on_oom(attempt, 4)
    assert asked == [4]


def test_a_batch_that_cannot_be_halved_down_is_refused():
    with pytest.raises(ValueError, match="batch is 6; a power of two"):
        training.halve_on_oom(lambda batch, accumulation: None, 6)


def test_the_failed_attempt_is_freed_before_the_next_one_begins():
    import weakref

    left = []

    class Trainer:
        def __init__(self):
            self.model, self.me = torch.zeros(8), self  # a cycle, as trainers have

    def attempt(batch, accumulation):
        left.append(sum(ref() is not None for ref in left_refs))
        trainer = Trainer()
        left_refs.append(weakref.ref(trainer))
        if batch > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    left_refs = []
    training.halve_on_oom(attempt, 4)
    assert left == [0, 0, 0]


def test_a_run_that_lost_its_memory_on_the_way_ends_with_the_weights_of_one_that_did_not(
    build, tokenizer, rows, tmp_path, monkeypatch
):
    """Four steps of 2 rows; in the third, 2 rows at a time are too many: it goes on from step 2 with 1 row, twice."""
    forward = training.LeanSFTTrainer.compute_loss

    def run(folder, limit):
        calls = []

        def loss(self, model, inputs, *args, **kwargs):
            calls.append(len(inputs["input_ids"]))
            if len(inputs["input_ids"]) > 1 and len(calls) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return forward(self, model, inputs, *args, **kwargs)

        def attempt(batch, accumulation):
            trainer = build(
                *(training.LeanSFTTrainer, tokenizer, rows, folder),
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=accumulation,
                **{"max_steps": 4, "save_strategy": "steps", "save_steps": 1},
            )
            training.make_lean(trainer, PROFILE, compiled=False)
            trainer.train(resume_from_checkpoint=training.last_checkpoint(folder))
            return trainer

        monkeypatch.setattr(training.LeanSFTTrainer, "compute_loss", loss)
        return training.halve_on_oom(attempt, 2), calls

    whole, _ = run(tmp_path / "whole", limit=99)
    broken, calls = run(tmp_path / "broken", limit=2)
    assert calls == [2, 2, 2, 1, 1, 1, 1]
    assert broken.state.global_step == whole.state.global_step == 4
    for a, b in zip(whole.model.parameters(), broken.model.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
