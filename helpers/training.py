"""What ``SFTTrainer`` needs on this hardware, and where adapters are kept.

Introduced in lesson 04. The configuration itself (``LoraConfig``, ``SFTConfig``, ``trainer.train()``) stays in the
notebook; here is only what a two-core machine wants from it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path

from transformers import PrinterCallback, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTTrainer

from helpers import int8, padding_free, runtime
from helpers.data import data_sha256

READY_MADE = runtime.project_root() / "data" / "adapters"  # of the embedded model
KEEP_COMPILED = "autograd_cache_allow_custom_autograd_functions"


def hardware_arguments(profile: runtime.Profile) -> dict:
    """The ``SFTConfig`` arguments that follow from the profile, not from the lesson.

    On the CPU: no GPU, weights already in their dtype (so no autocast), no checkpointing (memory is not short,
    time is). Rows are padded to multiples of 16 tokens, so that shapes recur and kernels made for one are used again.
    On CUDA: autocast in the profile's dtype. ``SFTConfig()`` alone raises on a machine without a GPU.
    """
    cpu = profile.device == "cpu"
    return {
        "use_cpu": cpu,
        "bf16": not cpu and profile.dtype == "bfloat16",
        "fp16": not cpu and profile.dtype == "float16",
        "gradient_checkpointing": profile.quantized,
        "train_sampling_strategy": "group_by_length",
        "dataloader_pin_memory": not cpu,
        "pad_to_multiple_of": 16,
        "report_to": "none",
    }


class LeanSFTTrainer(SFTTrainer):
    """``SFTTrainer`` that projects onto the vocabulary only where a token carries loss.

    Two thirds of our tokens are prompt. Without a GPU, TRL computes 49,152 logits for each of them and throws
    them away; this trainer selects the labelled positions first. The loss is the same: the mean cross-entropy
    over completion tokens (a unit test compares loss and gradients). On CUDA, TRL's own fused path is kept.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # the lesson draws the log; a dictionary a line would hide it
        self.remove_callback(PrinterCallback)
        if self.args.device.type == "cpu":
            self.add_callback(TrimMemory())

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        import torch

        if return_outputs or self.args.device.type != "cpu":
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        shared = isinstance(model, torch.nn.parallel.DistributedDataParallel)
        inner = model.module if shared else model
        causal_lm = getattr(inner, "get_base_model", lambda: inner)()
        with body_only(causal_lm) if shared else contextlib.nullcontext():
            # DDP has to see the forward pass, or it does not exchange gradients
            forward = model if shared else causal_lm.model
            ids, mask, weight = (
                inputs["input_ids"],
                inputs["attention_mask"],
                causal_lm.lm_head.weight,
            )
            if causal_lm.config._attn_implementation == padding_free.NAME:
                hidden, places = padding_free.hidden_states(forward, ids, mask, weight.dtype)
            else:
                hidden = forward(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
                places = torch.arange(ids.numel()).view_as(ids)
        labels = inputs["labels"][:, 1:]
        keep = labels != -100
        count = keep.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        total = completion_loss(hidden[places[:, :-1][keep]], weight, labels[keep])
        loss = total / count.clamp(min=1)
        if shared and num_items_in_batch is not None:
            # the count is that of all processes, and DDP averages over them
            loss = loss * self.accelerator.num_processes
        mode = "train" if model.training else "eval"
        self._total_train_tokens += int(mask.sum()) if mode == "train" else 0
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
        return loss

    def _load_from_checkpoint(self, *args, **kwargs):
        """Resume: peft loads adapters in float32 whatever they were, so give them back their precision."""
        dtypes = {name: p.dtype for name, p in self.model.named_parameters() if p.requires_grad}
        super()._load_from_checkpoint(*args, **kwargs)
        for name, parameter in self.model.named_parameters():
            if name in dtypes:
                parameter.data = parameter.data.to(dtypes[name])

    def create_optimizer(self, *args, **kwargs):
        trained = [p for p in self.model.parameters() if p.requires_grad]
        if (
            self.optimizer is None
            and self.args.device.type == "cpu"
            and trained[0].element_size() == 2
        ):
            self.optimizer = master_adamw(
                trained, lr=self.args.learning_rate, weight_decay=self.args.weight_decay
            )
        return super().create_optimizer(*args, **kwargs)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        import torch

        with torch.no_grad():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach(), None, None


@contextlib.contextmanager
def body_only(causal_lm):
    """While it lasts, the model's forward pass ends before its head: its output is the body's, with ``last_hidden_state``."""
    own = vars(causal_lm).get("forward")  # set where accelerate wraps the model itself
    causal_lm.forward = lambda **inputs: causal_lm.model(
        **{name: value for name, value in inputs.items() if value is not None}
    )
    try:
        yield
    finally:
        del causal_lm.forward
        if own:
            causal_lm.forward = own


def completion_loss(hidden, head, labels, rows: int = 128):
    """The summed cross-entropy of ``softmax(hidden @ head.T)`` against ``labels``, ``rows`` positions at a time.

    ``hidden``: (positions, width), ``head``: (vocabulary, width), ``labels``: (positions,); returns a float32 scalar. The
    gradient, softmax minus one-hot, is taken while a block's scores are at hand (not in an evaluation), so the (positions x 49,152) table, the
    largest array of a step, never exists (the idea of fused heads: Hsu et al. 2024, Wijmans et al. 2024).
    """
    import torch

    class Blocks(torch.autograd.Function):
        @staticmethod
        def forward(ctx, hidden, head, labels):
            total = torch.zeros((), dtype=torch.float32, device=hidden.device)
            to_hidden = torch.empty_like(hidden) if hidden.requires_grad else None
            to_head = torch.zeros_like(head) if head.requires_grad else None
            table = hidden.new_empty((min(rows, len(labels)), len(head)), dtype=torch.float32)
            for start in range(0, len(labels), rows):
                block, right = hidden[start : start + rows], labels[start : start + rows, None]
                # in place throughout: a block's scores are 25 MB, and memory new to the process costs more than the sums
                scores = table[: len(block)]
                if block.dtype == torch.float32:
                    torch.mm(block, head.T, out=scores)
                else:
                    scores.copy_(block @ head.T)
                scores -= scores.amax(-1, keepdim=True)
                total -= scores.gather(1, right).sum()
                weight = scores.exp_().sum(-1, keepdim=True)
                total += weight.log().sum()
                if to_hidden is None:
                    continue
                error = scores.div_(weight).scatter_add_(1, right, -torch.ones_like(weight))
                error = error.to(hidden.dtype)
                to_hidden[start : start + rows] = error @ head
                if to_head is not None:
                    to_head += error.T @ block
            ctx.save_for_backward(to_hidden, to_head)
            return total

        @staticmethod
        def backward(ctx, upstream):
            to_hidden, to_head = ctx.saved_tensors
            scale = upstream.to(to_hidden.dtype)
            return to_hidden * scale, None if to_head is None else to_head * scale, None

    return Blocks.apply(hidden, head, labels)


class TrimMemory(TrainerCallback):
    """Give freed memory back to the system every few steps (``runtime.give_memory_back``).

    Batches of many lengths leave holes in the heap, and the process would grow by gigabytes over a run.
    """

    def __init__(self, every: int = 8):
        self.every = every

    def on_train_begin(self, args, state, control, **kwargs):
        runtime.give_memory_back(collect=True)  # models of earlier cells

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.every == 0:
            runtime.give_memory_back()

    def on_train_end(self, args, state, control, **kwargs):
        runtime.give_memory_back()


class StepsBar(TrainerCallback):
    """A bar of the steps with the time left, gone when the run ends: for runs without lesson 04's panel (lesson 06, section 6.4)."""

    def on_train_begin(self, args, state, control, **kwargs):
        from tqdm.auto import tqdm

        options = {"desc": "training", "unit": "step", "leave": False, "mininterval": 1}
        shown = state.is_world_process_zero
        self.bar = tqdm(
            total=state.max_steps, initial=state.global_step, disable=not shown, **options
        )

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update()

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()


def master_adamw(parameters, **options):
    """AdamW that keeps a float32 copy of each 16-bit weight, steps on the copy, and rounds once into the weight.

    A bf16 number has 8 significant bits: late in a run a step is smaller than half the distance to the next number, and
    would be rounded away. The copies keep it (mixed-precision training, Micikevicius et al. 2018, section 3.1).
    """
    import torch

    class MasterAdamW(torch.optim.AdamW):
        def __init__(self, live, **kwargs):
            self.live = list(live)
            copies = [p.detach().clone().float() for p in self.live]
            super().__init__(copies, **{"fused": True} | kwargs)

        @torch.no_grad()
        def step(self, closure=None):
            masters = [p for group in self.param_groups for p in group["params"]]
            for weight, master in zip(self.live, masters):
                master.grad = None if weight.grad is None else weight.grad.float()
            super().step(closure)
            for weight, master in zip(self.live, masters):
                weight.copy_(master)
                master.grad = None  # not to be kept through the next forward pass

        def zero_grad(self, set_to_none: bool = True):
            for weight in self.live:
                weight.grad = None

    return MasterAdamW(parameters, **options)


def compiler_available() -> bool:
    """True if torch.compile can build CPU kernels here (it needs a C++ compiler); ``WORKSHOP_COMPILE=0`` says no."""
    if os.environ.get("WORKSHOP_COMPILE", "1") == "0":
        return False
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


def make_lean(trainer, profile: runtime.Profile, compiled: bool | None = None) -> list[str]:
    """Fit a built trainer to this hardware, and return what was done, in sentences.

    On a CPU with bf16 arithmetic the adapters get bf16 too, and each decoder layer is compiled once (half a minute) where a
    C++ compiler is at hand and the run is long enough to earn it back; with it goes attention written as two matrix products,
    since the fused CPU kernel is slow backwards on rows as short as ours, and batches without padding (``padding_free``).
    Where the processor multiplies 8 bit several times as fast, compiled layers do so with the weights that are frozen (``int8``).
    ``compiled`` says yes or no instead. Call it after the trainer is built.
    """
    import torch

    done = []
    if profile.device == "cpu":
        dtype = getattr(torch, profile.dtype)
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)
        copies = "" if dtype == torch.float32 else "; the optimiser keeps float32 copies"
        done.append(f"adapters in {profile.dtype}, like the weights{copies}")
        batch = trainer.args.per_device_train_batch_size
        steps = len(trainer.train_dataset) * trainer.args.num_train_epochs / batch
        causal_lm = getattr(trainer.model, "get_base_model", lambda: trainer.model)()
        if compiled is None:
            quantized = getattr(causal_lm, "is_quantized", False)
            compiled = compiler_available() and steps >= 60 and not quantized
        if compiled:
            fits = padding_free.fits(causal_lm)
            causal_lm.set_attn_implementation(padding_free.NAME if fits else "eager")
            # what was compiled is kept for the next run, functions with a backward of their own included (they are part of the key)
            if hasattr(torch._functorch.config, KEEP_COMPILED):  # not in an older torch
                setattr(torch._functorch.config, KEEP_COMPILED, True)
            eighth = int8.freeze(causal_lm) if profile.int8 else 0
            for layer in causal_lm.model.layers:
                layer.compile(dynamic=True)
            done.append(
                f"decoder layers compiled, attention as two matrix products{', no padding' * fits} "
                "(the first step takes half a minute)"
            )
            if eighth:
                done.append(
                    f"{eighth} frozen matrices multiply in 8 bit (WORKSHOP_INT8=0: in float32)"
                )
    elif profile.quantized:
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        done.append("adapters in float32: the fp16 gradient scaler refuses TRL's bf16")
    return done


def halve_on_oom(attempt, batch: int, accumulation: int = 1):
    """``attempt(batch, accumulation)``; each time memory runs out, again with half the batch and twice the accumulation.

    ``attempt`` builds a trainer and trains it (lesson 04, section 4.6). The optimiser sees as many rows a step as before, and an
    attempt that begins at the last checkpoint goes on from there. ``batch`` is a power of two. Raises RuntimeError when one row is
    too many.
    """
    from accelerate.utils import release_memory

    from helpers.models import ModelError

    if batch < 1 or batch & (batch - 1):
        raise ValueError(f"batch is {batch}; a power of two can be halved down to 1")

    while True:
        try:
            return attempt(batch, accumulation)
        except ModelError:  # the model alone does not fit: fewer rows do not help
            raise
        except (RuntimeError, MemoryError) as error:
            says = ("out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED")
            if not isinstance(error, MemoryError) and not any(s in str(error) for s in says):
                raise
            if batch == 1:
                raise RuntimeError(
                    "out of memory with one row at a time: close other kernels, restart this one, or set "
                    "a smaller WORKSHOP_MODEL or max_length"
                ) from error
        # outside the except clause, where nothing holds the failed trainer any more
        release_memory()
        print(f"out of memory with {batch} rows at a time:", end=" ")
        batch, accumulation = batch // 2, accumulation * 2
        print(f"going on with {batch}, adding up gradients over {accumulation} batches a step")


def run_key(lora, arguments, profile: runtime.Profile, rows: list[dict]) -> str:
    """A name for a training run: 12 hex digits over configuration, model, data and rows. The same run has the same name."""
    asked = arguments.to_dict()
    keep = (
        "learning_rate",
        "num_train_epochs",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "seed",
    )
    config = {
        name: asked[name] for name in (*keep, "lr_scheduler_type", "warmup_steps", "max_length")
    }
    adapter = {
        k: sorted(v) if isinstance(v, set) else v
        for k, v in lora.to_dict().items()
        if k != "base_model_name_or_path"
    }
    everything = json.dumps(
        [
            *(config, adapter, profile.model, profile.dtype + ", int8" * profile.int8),
            *(data_sha256(), rows),
        ],
        sort_keys=True,
        default=str,
    )
    return hashlib.sha256(everything.encode()).hexdigest()[:12]


def adapter_dir(name: str, key: str) -> Path:
    """Where a run's adapter is kept: ``runs/adapters/<name>-<key>``."""
    return runtime.runs_dir() / "adapters" / f"{name}-{key}"


def last_checkpoint(folder: str | Path) -> str | None:
    """The last whole checkpoint of an interrupted run, or None; one cut off while it was written is removed."""
    while (path := get_last_checkpoint(str(folder)) if Path(folder).is_dir() else None) is not None:
        if all(
            (Path(path) / name).exists()
            for name in ("trainer_state.json", "optimizer.pt", "scheduler.pt")
        ):
            return path
        shutil.rmtree(path)
    return None


def save_adapter(trainer, folder: Path, profile: runtime.Profile, seconds: float, **facts) -> Path:
    """Save the trained adapter and ``training.json`` (seconds, parameters, versions, the loss history) in one move.

    Written to a temporary name and renamed: a folder that exists is whole. The run's checkpoints are removed.
    """
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    trainer.model.save_pretrained(part)
    config = json.loads((part / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = profile.model  # not the path of this machine
    (part / "adapter_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    record = {
        "model": profile.model,
        "data_sha256": data_sha256(),
        "share": runtime.share(),
        "seed": trainer.args.seed,
        "epochs": trainer.args.num_train_epochs,
        "seconds": seconds,
        "trainable_parameters": trainable,
        "peak_memory_gb": round(runtime.peak_memory_gb(), 2),
        "versions": runtime.versions(),
        "machine": str(runtime.detect()),
        "history": trainer.state.log_history,
    }
    (part / "training.json").write_text(json.dumps(record | facts, indent=1), encoding="utf-8")
    (part / "README.md").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)
    shutil.rmtree(trainer.args.output_dir, ignore_errors=True)
    return folder


def ready_made(name: str, profile: runtime.Profile) -> Path:
    """The adapter of a name in ``data/adapters``; raises ``ModelError`` for a model that it was not made with."""
    from helpers.models import ModelError

    ready = READY_MADE / name
    if profile.model != runtime.EMBEDDED:
        raise ModelError(
            f"the adapters in data/adapters are for {runtime.EMBEDDED} and this is {profile.model}: "
            "train (lesson 04 with READY_MADE = DEMO = WATCH = False)"
        )
    if not all((ready / file).exists() for file in ("adapter_config.json", "training.json")):
        raise ModelError(f"data/adapters has no whole '{name}': git checkout data/adapters")
    return ready


def keep_ready_made(folder: str | Path, name: str) -> Path:
    """Copy a trained adapter to ``data/adapters/<name>``, its weights rounded to bf16, half of the megabytes; returns the new folder.

    The copy is written under another name first. Raises FileNotFoundError where ``folder`` holds no adapter, ValueError for one that was
    stopped early or made in a dry run.
    """
    import torch
    from safetensors.torch import load_file, save_file

    folder, kept = Path(folder), READY_MADE / name
    weights = load_file(folder / "adapter_model.safetensors")
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    if record["share"] < 1 or folder.name.endswith("-stopped"):
        raise ValueError(
            f"{folder.name} is not of a whole run: train without WORKSHOP_SHARE, to the end"
        )
    part = kept.with_name(name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for file in ("adapter_config.json", "training.json"):
        shutil.copyfile(folder / file, part / file)
    rounded = {key: tensor.to(torch.bfloat16) for key, tensor in weights.items()}
    save_file(rounded, part / "adapter_model.safetensors", metadata={"format": "pt"})
    shutil.rmtree(kept, ignore_errors=True)
    os.replace(part, kept)
    return kept


def has_ready_made(name: str, profile: runtime.Profile) -> bool:
    """Whether ``data/adapters`` has that adapter for this profile's model, trained on these very data."""
    from helpers.models import ModelError

    try:
        record = ready_made(name, profile) / "training.json"
    except ModelError:
        return False
    return json.loads(record.read_text(encoding="utf-8")).get("data_sha256") == data_sha256()


def origin(folder: Path, profile: runtime.Profile) -> str:
    """Where an adapter comes from, as the scoreboard says it: "trained here", "stopped early", "ready-made", or "ready-made, for other data"."""
    if folder.name.endswith("-stopped"):
        return "stopped early"
    if folder.parent != READY_MADE:
        return "trained here"
    return "ready-made" if has_ready_made(folder.name, profile) else "ready-made, for other data"


def find_adapter(name: str, profile: runtime.Profile) -> tuple[Path, str]:
    """The newest adapter of a name trained here for this profile's model and these data, else the ready-made one, and which it is.

    One from a dry run (``runtime.share``) serves dry runs of the same share only. Raises ``ModelError`` where neither exists: ready-made ones are
    for the embedded model only, so another model's lesson 04 comes before the lessons that ask for its adapters.
    """
    found = sorted(
        (runtime.runs_dir() / "adapters").glob(f"{name}-" + "[0-9a-f]" * 12), key=os.path.getmtime
    )
    for folder in reversed(found):
        record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        same = record.get("model") == profile.model and record.get("data_sha256") == data_sha256()
        if same and record.get("share", 1.0) == runtime.share():
            return folder, "trained here"
    ready = ready_made(name, profile)
    return ready, origin(ready, profile)
