"""Which profile follows from the machine and why, how far to scale the work, versions and seeds.

Introduced in lesson 00. Nothing here imports torch until a function is called.
"""

from __future__ import annotations

import gc
import os
import platform
import random
import sys
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from helpers.machine import Machine, detect, use_first_gpu

EMBEDDED = "SmolLM2-135M-Instruct"
SMALL_GPU = "HuggingFaceTB/SmolLM2-1.7B-Instruct"
LARGE_GPU = "Qwen/Qwen3-4B-Instruct-2507"
PROFILES = ("cpu", "t4", "gpu")
TESTED = ("torch", "transformers", "trl", "peft", "datasets")
BILLIONS = {EMBEDDED: 0.135, SMALL_GPU: 1.71, LARGE_GPU: 4.02}  # parameters, from the model cards
EFFECTIVE_BATCH = 4  # rows an optimiser step, as lesson 04 has it, on every machine
ROW_GB = {False: 1.0, True: 0.25}  # GiB a row of 512 tokens and billion parameters, by quantized
ROOM_GB = {"cpu": 1.75, "cuda": 1.0}  # beside the weights: libraries, cache, adapter, optimiser
SMALLEST_GPU_GB, FOUR_BIT_BELOW_GB, LARGE_ABOVE_GB = 3.5, 9, 16


@dataclass(frozen=True)
class Profile:
    """What follows from the machine: the model, its precision, the kind of adapter, and rows at a time.

    ``batch_size`` times ``accumulation`` is ``EFFECTIVE_BATCH``; ``reasons`` pairs a field's name with its reason. ``int8``: long training
    runs multiply in 8 bit (``helpers/int8.py``).
    """

    name: str
    model: str
    dtype: str
    quantized: bool
    device: str
    reason: str
    attention: str = "sdpa"
    batch_size: int = EFFECTIVE_BATCH
    accumulation: int = 1
    reasons: tuple[tuple[str, str], ...] = ()
    int8: bool = False

    @property
    def adapter(self) -> str:
        return "QLoRA" if self.quantized else "LoRA"


def project_root() -> Path:
    """The folder that holds ``data/`` and ``notebooks/``: this checkout."""
    return Path(__file__).resolve().parent.parent


def runs_dir() -> Path:
    """``runs/``, made if missing; ``WORKSHOP_RUNS`` moves it."""
    path = Path(os.environ.get("WORKSHOP_RUNS") or project_root() / "runs")
    path.mkdir(parents=True, exist_ok=True)
    return path


def share() -> float:
    """Which part of the work to do: ``WORKSHOP_SHARE``, 0.1 with ``WORKSHOP_FAST=1``, else 1.0.

    It scales tickets, training rows and trials alike. Raises ValueError for anything but a number above 0 and up to 1.
    """
    text = os.environ.get("WORKSHOP_SHARE", "")
    if not text:
        return 1.0 if os.environ.get("WORKSHOP_FAST", "0") in ("", "0") else 0.1
    try:
        part = float(text)
    except ValueError:
        part = 0.0
    if not 0 < part <= 1:
        raise ValueError(f"WORKSHOP_SHARE is {text!r}; a number above 0 and up to 1, such as 0.5")
    return part


def share_for_tests() -> float:
    """Which part of the work ``make test`` does on this machine, so that it ends within three quarters of an hour on two cores.

    Half where there is a GPU or the CPU multiplies at 0.6 TFLOP/s or more in the profile's precision (with AMX about 2), else 0.15:
    in float32 two server cores reach 0.3, and the lessons take about twice as long. ``tests/floors`` has floors for both.
    """
    from helpers.machine import product_flops

    profile = choose_profile(detect())
    return 0.5 if profile.device != "cpu" or product_flops(profile.dtype) >= 6e11 else 0.15


def fast() -> bool:
    """True for a run that does less than all of the work: its figures are not the workshop's."""
    return share() < 1


def scaled(n: int, least: int = 8) -> int:
    """``n``, or the ``share()`` of it (at least ``least``)."""
    return max(min(least, n), int(n * share()))


def thinned(rows: list, least: int = 8) -> list:
    """The ``share()`` of the rows, evenly spread: ticket files are sorted by section, so their beginning is no sample."""
    count = scaled(len(rows), least)
    return [rows[i * len(rows) // count] for i in range(count)]


def weights_gb(model: str, dtype: str, quantized: bool) -> float | None:
    """GiB of a model's weights: 4 or 2 bytes a parameter, in nf4 about 0.65 (embeddings stay in 16 bit).

    None for a model that is not in ``BILLIONS``.
    """
    if model not in BILLIONS:
        return None
    return BILLIONS[model] * 1e9 * (0.65 if quantized else 4 if dtype == "float32" else 2) / 2**30


def _profile_name(machine: Machine, wanted: str) -> tuple[str, str]:
    """The profile's name and why; ValueError if ``wanted`` is no profile or not one for this machine."""
    capability = machine.capability
    if wanted and wanted not in PROFILES:
        raise ValueError(f"WORKSHOP_PROFILE is {wanted!r}; one of {', '.join(PROFILES)}")
    if wanted in ("t4", "gpu") and capability is None:
        raise ValueError(
            f"WORKSHOP_PROFILE is {wanted!r}, but no CUDA device was found"
            f"{f' ({machine.note})' if machine.note else ''}; use cpu"
        )
    if wanted == "gpu" and capability < (8, 0):
        raise ValueError(
            f"WORKSHOP_PROFILE is 'gpu', but {machine.gpu} has compute capability "
            f"{capability[0]}.{capability[1]} and would only emulate bf16; use t4 or cpu"
        )
    if wanted:
        return wanted, "WORKSHOP_PROFILE asks for it"
    if capability is None:
        return "cpu", "no GPU"
    if machine.gpu_memory_gb < SMALLEST_GPU_GB:
        return "cpu", f"{machine.gpu} has {machine.gpu_memory_gb:.1f} GiB, too little to train on"
    if capability >= (8, 0):
        return "gpu", "compute capability 8.0 or above"
    return "t4", "compute capability below 8.0"


def _batch_size(machine: Machine, model: str, dtype: str, quantized: bool) -> tuple[int, str]:
    """Rows at a time on a GPU, at most ``EFFECTIVE_BATCH``, and why.

    The rule: free memory less weights and room, over 1 GiB a row and billion parameters (a quarter of it with gradient
    checkpointing, which goes with 4 bit), for rows of 512 tokens. On an H200 (``data/memory.jsonl``) a row took 0.85 GiB a billion
    parameters in a model of 1.7 billion and, with 4 bit and checkpointing, 0.06: the rule leaves room for longer rows and for the allocator.
    """
    weights = weights_gb(model, dtype, quantized)
    if weights is None:
        return 1, f"the size of {model} is not known here, so one row at a time"
    free = machine.gpu_memory_gb if machine.gpu_free_gb is None else machine.gpu_free_gb
    left = free - weights - ROOM_GB["cuda"]
    row = BILLIONS[model] * ROW_GB[quantized]
    rows = EFFECTIVE_BATCH
    while rows > 1 and rows * row > left:
        rows //= 2
    return rows, (
        f"{free:.1f} GiB free, {weights:.1f} for weights, {ROOM_GB['cuda']:.1f} for the rest, "
        f"about {row:.1f} a row (an estimate)"
    )


def choose_profile(machine: Machine, env: dict[str, str] | None = None) -> Profile:
    """The profile for a machine; ``WORKSHOP_PROFILE`` and ``WORKSHOP_MODEL`` in ``env`` override.

    Precision follows from the device's compute capability (bf16 from 8.0 on), never from
    ``torch.cuda.is_bf16_supported()``, which is also True where bf16 is only emulated.
    Raises ValueError for an unknown profile, or one that this machine cannot run.
    """
    env = os.environ if env is None else env
    name, reason = _profile_name(machine, env.get("WORKSHOP_PROFILE", "").strip().lower())
    why = {"name": reason}
    total, quantized = f"{machine.gpu_memory_gb:.0f} GiB of GPU memory", False
    if name == "cpu":
        model, why["model"] = EMBEDDED, "the embedded model trains in minutes on two cores"
        dtype = "bfloat16" if machine.fast_bf16 else "float32"
        precise = "the CPU has no bf16 arithmetic"
        if machine.fast_bf16:
            precise = "the CPU multiplies bf16"
        elif machine.slow_bf16:
            precise = "the CPU multiplies bf16, but float32 faster (measured)"
        reason = f"no GPU; {precise}" if reason == "no GPU" else reason
    elif name == "t4":
        model, dtype, quantized = SMALL_GPU, "float16", True
        why["model"] = f"{total}; the smaller of the two GPU models"
        precise = "bf16 needs compute capability 8.0; below, it is only emulated"
    else:
        large = machine.gpu_memory_gb > LARGE_ABOVE_GB
        model, dtype = LARGE_GPU if large else SMALL_GPU, "bfloat16"
        quantized = machine.gpu_memory_gb < FOUR_BIT_BELOW_GB
        why["model"] = f"{total}; the larger model is for more than {LARGE_ABOVE_GB}"
        precise = "compute capability 8.0 or above multiplies bf16"
    if asked := env.get("WORKSHOP_MODEL", "").strip():
        model, why["model"] = asked, "WORKSHOP_MODEL asks for it"
    why["dtype"] = precise
    int8 = name == "cpu" and machine.fast_int8
    if int8:
        why["int8"] = (
            "long training runs: the CPU multiplies 8 bit twice as fast or more (measured)"
        )
    why["adapter"] = "weights in nf4 leave room to train" if quantized else "weights fit in full"
    attention, batch, rows_why = "sdpa", EFFECTIVE_BATCH, "as lesson 04 has it"
    if name == "cpu":
        why["attention"] = "PyTorch's own; others need a GPU"
    elif machine.capability < (8, 0):
        why["attention"] = "PyTorch's own; FlashAttention 2 needs compute capability 8.0"
    elif machine.flash_attention:
        attention, why["attention"] = "flash_attention_2", "the package flash_attn is installed"
    else:
        why["attention"] = "PyTorch's own; the package flash_attn is not installed"
    if name != "cpu":
        batch, rows_why = _batch_size(machine, model, dtype, quantized)
    why["batch_size"] = rows_why
    why["accumulation"] = f"{EFFECTIVE_BATCH} rows an optimiser step, on every machine"
    if name != "cpu":
        found = "{}, compute capability {}.{}".format(machine.gpu, *machine.capability)
    else:
        found = f"{machine.gpu} is not used" if machine.gpu else "no GPU"
    why["device"] = machine.note or found
    return Profile(
        *(name, model, dtype, quantized, "cpu" if name == "cpu" else "cuda", reason),
        *(attention, batch, EFFECTIVE_BATCH // batch, tuple(why.items())),
        int8=int8,
    )


def explain(profile: Profile):
    """Every setting of the profile with its value and its reason, as a pandas table (lesson 00, section 0.3)."""
    import pandas as pd

    rows = [(name, str(getattr(profile, name)), why) for name, why in profile.reasons]
    return pd.DataFrame(rows, columns=["setting", "value", "reason"]).set_index("setting")


def check_torchao() -> None:
    """Raise RuntimeError if a torchao is installed that PEFT refuses: every adapter would fail (as on Colab)."""
    if find_spec("torchao") is None:
        return
    from peft.import_utils import is_torchao_available

    try:
        is_torchao_available()
    except ImportError as error:
        raise RuntimeError(
            f"{error}. No lesson uses it: run `pip uninstall -y torchao`, then restart the kernel"
        ) from error


def versions() -> dict[str, str]:
    """The versions of the packages that decide a result."""
    from importlib.metadata import version

    return {"python": platform.python_version(), **{p: version(p) for p in TESTED}}


def set_seed(seed: int) -> None:
    """Seed Python, numpy and torch."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _hush() -> None:
    """Silence what a learner can do nothing about: deprecations inside transformers, and bitsandbytes asking for an optional kernel."""
    import logging
    import warnings

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def start(seed: int = 0) -> Profile:
    """Call once, first, in every lesson: seed, go offline where nothing is fetched, and say what runs.

    Returns the profile; ``explain`` has its reasons. On ``cpu`` it sets ``HF_HUB_OFFLINE=1``: no lesson needs the network after
    set-up. Raises RuntimeError for a package that would stop a later lesson, ValueError for a wrong override.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # where JAX is installed (on Colab), bm25s starts it, and JAX takes three quarters of the GPU's memory for itself
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    _hush()
    idle = use_first_gpu()
    machine = detect()
    machine = replace(machine, note=idle or machine.note)
    profile = choose_profile(machine)
    if profile.name == "cpu" and not os.environ.get("WORKSHOP_MODEL"):
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ["HF_DATASETS_OFFLINE"] = "1"
    check_torchao()  # it imports the hub's client, which reads HF_HUB_OFFLINE once
    set_seed(seed)
    found = versions()
    used = " ".join(f"{name} {found[name]}" for name in TESTED)
    dry = f" | dry run: {share():.0%} of the work" if fast() else ""
    print(f"profile {profile.name} | {profile.model} in {profile.dtype} | {used}{dry}")
    if profile.device == "cuda":
        print(
            f"{machine.gpu} | attention {profile.attention} | {profile.batch_size} x "
            f"{profile.accumulation} rows a step | runtime.explain(profile) has the reasons"
        )
    if machine.note:
        print(f"note: {machine.note}")
    return profile


def peak_memory_gb() -> float:
    """The largest resident set of this process so far, in GB (10^9 bytes); 0.0 where unknown."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return getattr(psutil.Process().memory_info(), "peak_wset", 0) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


@lru_cache(maxsize=1)
def _heap_trim():
    """glibc's ``malloc_trim``, or None where there is another C library."""
    import ctypes

    try:
        return ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):
        return None


def give_memory_back(collect: bool = False) -> None:
    """Give freed memory back to the system (``malloc_trim``; where that is missing nothing happens). It takes milliseconds.

    Arrays of many sizes leave holes in the heap, which the process keeps. ``collect`` first frees what only refers to itself, such as
    a trainer of an earlier cell with its model.
    """
    if collect:
        gc.collect()
    if trim := _heap_trim():
        trim(0)
