"""Which machine this is, which profile follows from it, and how far to scale the work.

Introduced in lesson 00. Nothing here imports torch until a function is called.
"""

from __future__ import annotations

import os
import platform
import random
import sys
from dataclasses import dataclass, replace
from pathlib import Path

EMBEDDED = "SmolLM2-135M-Instruct"
SMALL_GPU = "HuggingFaceTB/SmolLM2-1.7B-Instruct"
LARGE_GPU = "Qwen/Qwen3-4B-Instruct-2507"
PROFILES = ("cpu", "t4", "gpu")
TESTED = ("torch", "transformers", "trl", "peft", "datasets")


@dataclass(frozen=True)
class Machine:
    """What was found: ``capability`` is CUDA's (major, minor) or None, memory is in GiB."""

    cpu: str
    cores: int
    memory_gb: float
    fast_bf16: bool
    gpu: str | None = None
    capability: tuple[int, int] | None = None
    gpu_memory_gb: float = 0.0

    def __str__(self) -> str:
        bf16 = "with" if self.fast_bf16 else "without"
        text = f"{self.cpu}, {self.cores} cores, {self.memory_gb:.0f} GiB, {bf16} bf16 arithmetic"
        return text + (f"; {self.gpu}, {self.gpu_memory_gb:.0f} GiB" if self.gpu else "; no GPU")


@dataclass(frozen=True)
class Profile:
    """What follows from the machine: the model, its precision, and the kind of adapter."""

    name: str
    model: str
    dtype: str
    quantized: bool
    device: str
    reason: str

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


def fast() -> bool:
    """True if ``WORKSHOP_FAST=1`` asks for a dry run with a tenth of the work."""
    return os.environ.get("WORKSHOP_FAST", "0") not in ("", "0")


def scaled(n: int, least: int = 8) -> int:
    """``n``, or a tenth of it (at least ``least``) in a dry run."""
    return max(min(least, n), n // 10) if fast() else n


def _cpu_flags() -> tuple[str, set[str]]:
    name, flags = platform.processor() or platform.machine(), set()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() == "flags":
                flags = set(value.split())
                break
    except OSError:
        pass
    return name, flags


def detect() -> Machine:
    """Look at the processor, the memory and the first CUDA device."""
    import psutil
    import torch

    name, flags = _cpu_flags()
    machine = Machine(
        cpu=name,
        cores=os.cpu_count() or 1,
        memory_gb=psutil.virtual_memory().total / 2**30,
        fast_bf16=bool(flags & {"avx512_bf16", "amx_bf16"}),
    )
    if not torch.cuda.is_available():
        return machine
    gpu = torch.cuda.get_device_properties(0)
    return replace(
        machine,
        gpu=gpu.name,
        capability=torch.cuda.get_device_capability(0),
        gpu_memory_gb=gpu.total_memory / 2**30,
    )


def choose_profile(machine: Machine, env: dict[str, str] | None = None) -> Profile:
    """The profile for a machine; ``WORKSHOP_PROFILE`` and ``WORKSHOP_MODEL`` in ``env`` override.

    Precision follows from the device's compute capability (bf16 from 8.0 on), never from
    ``torch.cuda.is_bf16_supported()``, which is also True where bf16 is only emulated.
    Raises ValueError for an unknown profile, or a GPU profile on a machine without one.
    """
    env = os.environ if env is None else env
    wanted = env.get("WORKSHOP_PROFILE", "").strip().lower()
    if wanted and wanted not in PROFILES:
        raise ValueError(f"WORKSHOP_PROFILE is {wanted!r}; one of {', '.join(PROFILES)}")
    if wanted in ("t4", "gpu") and machine.capability is None:
        raise ValueError(f"WORKSHOP_PROFILE is {wanted!r}, but no CUDA device was found; use cpu")
    name = wanted or (
        "cpu" if machine.capability is None else "gpu" if machine.capability >= (8, 0) else "t4"
    )
    if name == "cpu":
        dtype = "bfloat16" if machine.fast_bf16 else "float32"
        why = "the CPU multiplies bf16" if machine.fast_bf16 else "the CPU has no bf16 arithmetic"
        profile = Profile("cpu", EMBEDDED, dtype, False, "cpu", why)
    elif name == "t4":
        profile = Profile("t4", SMALL_GPU, "float16", True, "cuda", "compute capability below 8.0")
    else:
        model = LARGE_GPU if machine.gpu_memory_gb > 16 else SMALL_GPU
        profile = Profile(
            "gpu", model, "bfloat16", False, "cuda", "compute capability 8.0 or above"
        )
    if wanted:
        profile = replace(profile, reason="WORKSHOP_PROFILE asks for it")
    model = env.get("WORKSHOP_MODEL", "").strip()
    return replace(profile, model=model) if model else profile


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


def start(seed: int = 0) -> Profile:
    """Call once, first, in every lesson: seed, go offline where nothing is fetched, and say what runs.

    Returns the profile. On ``cpu`` it sets ``HF_HUB_OFFLINE=1``: no lesson needs the network after set-up.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    machine = detect()
    profile = choose_profile(machine)
    if profile.name == "cpu" and not os.environ.get("WORKSHOP_MODEL"):
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ["HF_DATASETS_OFFLINE"] = "1"
    set_seed(seed)
    found = versions()
    used = " ".join(f"{name} {found[name]}" for name in TESTED)
    dry = " | dry run: a tenth of the work" if fast() else ""
    print(f"profile {profile.name} | {profile.model} in {profile.dtype} | {used}{dry}")
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
