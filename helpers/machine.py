"""Which machine this is: the processor, its memory, the first GPU, and what is there but not used.

Introduced in lesson 00, section 0.3; ``runtime`` decides what follows from it. Nothing here imports torch until a function is
called.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    """What was found: ``capability`` is CUDA's (major, minor) or None, memory is in GiB.

    ``fast_bf16``: the CPU multiplies bf16 faster than float32; ``slow_bf16``: it has the instructions, and they are slower.
    ``fast_int8``: it multiplies integers of 8 bit more than twice as fast as float32, and bf16 is not fast. ``gpu_free_gb`` is None
    where only the total is known; ``note`` says what is there but not used.
    """

    cpu: str
    cores: int
    memory_gb: float
    fast_bf16: bool
    gpu: str | None = None
    capability: tuple[int, int] | None = None
    gpu_memory_gb: float = 0.0
    gpu_free_gb: float | None = None
    flash_attention: bool = False
    note: str = ""
    slow_bf16: bool = False
    fast_int8: bool = False

    def __str__(self) -> str:
        bf16 = "with" if self.fast_bf16 else "with slow" if self.slow_bf16 else "without"
        text = f"{self.cpu}, {self.cores} cores, {self.memory_gb:.0f} GiB, {bf16} bf16 arithmetic"
        text += " but fast products in 8 bit" * self.fast_int8
        return text + (f"; {self.gpu}, {self.gpu_memory_gb:.0f} GiB" if self.gpu else "; no GPU")


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


@lru_cache
def product_flops(
    dtype: str, size: int = 1024, rounds: int = 5, threads: int | None = None
) -> float:
    """Operations a second of a square matrix product on the CPU, the best of some rounds (a few milliseconds each).

    Counted as 2 ``size``^3 a product. ``dtype``: "float32", "bfloat16" or "int8" (summed in 32 bit; 0.0 where this torch has no such product). ``threads``: on so
    many, instead of as many as torch uses.
    """
    import torch

    a = torch.ones(size, size, dtype=getattr(torch, dtype))
    multiply = getattr(torch, "_int_mm", None) if dtype == "int8" else torch.matmul
    if multiply is None:
        return 0.0
    usual, best = torch.get_num_threads(), float("inf")
    torch.set_num_threads(threads or usual)
    try:
        multiply(a, a)  # the first one sets up its kernel
        for _ in range(rounds):
            started = time.perf_counter()
            multiply(a, a)
            best = min(best, time.perf_counter() - started)
    finally:
        torch.set_num_threads(usual)
    return 2 * size**3 / best


def bf16_is_faster() -> bool:
    """Whether this CPU multiplies bf16 faster than float32: measured, since having the instructions does not tell.

    With AMX bf16 is several times faster. With AVX512-BF16 alone it was 3.7 times faster on an AMD Zen 5, 2.2 times on a Zen 4, and
    0.6 times as fast on an Intel Xeon whose AMX the virtual machine hides: there, training in float32 took 0.6 of the time.
    """
    return product_flops("bfloat16") > 1.1 * product_flops("float32")


def int8_is_faster() -> bool:
    """Whether this CPU multiplies integers of 8 bit more than twice as fast as float32 (with VNNI about four times): measured.

    The tokens have to be rounded and the sums scaled back, which costs part of the gain. On one thread, since short products of
    several wait for each other where another program runs beside them. ``WORKSHOP_INT8=0`` says no.
    """
    if os.environ.get("WORKSHOP_INT8", "1") == "0":
        return False
    whole, floating = (product_flops(each, rounds=10, threads=1) for each in ("int8", "float32"))
    return whole > 2 * floating


def use_first_gpu() -> str:
    """Hide every GPU but the first from this process, and say so; "" where there are not several.

    ``Trainer`` would spread a model over all that it sees (``DataParallel``) and multiply the batch by their number.
    To be called before CUDA starts. Under ``torchrun``, which gives each process its own GPU, it does nothing.
    """
    import torch

    count = torch.cuda.device_count()
    if count < 2 or "LOCAL_RANK" in os.environ:
        return ""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    os.environ["CUDA_VISIBLE_DEVICES"] = first
    return (
        f"GPU {first} of {count} is used, the others are idle: a notebook is one process, "
        f"`torchrun --nproc_per_node {count} script.py` would start one for each"
    )


def _why_no_cuda(torch, warned: str) -> str:
    """What is there and not used, on a machine where torch finds no CUDA device; "" if nothing is."""
    if torch.backends.mps.is_available():
        return "the Apple GPU (MPS) is not used: this workshop has never been run on one"
    if torch.version.cuda is None:
        return ""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides every GPU: running on the CPU"
    found = f"this torch is built for CUDA {torch.version.cuda}, but"
    if shutil.which("nvidia-smi"):
        cause = warned or "`nvidia-smi` shows whether it is too old or sees no GPU"
        return f"{found} the driver gives it no GPU ({cause}): running on the CPU"
    return f"{found} no NVIDIA driver is installed: running on the CPU"


def detect() -> Machine:
    """Look at the processor, the memory and the first CUDA device."""
    import warnings

    import psutil
    import torch

    name, flags = _cpu_flags()
    has_bf16 = bool(flags & {"avx512_bf16", "amx_bf16"})
    fast_bf16 = has_bf16 and bf16_is_faster()
    machine = Machine(
        cpu=name,
        cores=os.cpu_count() or 1,
        memory_gb=psutil.virtual_memory().total / 2**30,
        fast_bf16=fast_bf16,
        slow_bf16=has_bf16 and not fast_bf16,
        fast_int8=not fast_bf16 and int8_is_faster(),
    )
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if not torch.cuda.is_available():
            warned = str(said[0].message).split(". ")[0] if said else ""
            return replace(machine, note=_why_no_cuda(torch, warned))
    gpu = torch.cuda.get_device_properties(0)
    return replace(
        machine,
        gpu=gpu.name,
        capability=torch.cuda.get_device_capability(0),
        gpu_memory_gb=gpu.total_memory / 2**30,
        gpu_free_gb=torch.cuda.mem_get_info(0)[0] / 2**30,
        flash_attention=find_spec("flash_attn") is not None,
    )
