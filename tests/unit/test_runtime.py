import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers import machine as machines
from helpers import runtime

CPU = runtime.Machine("test", 2, 8.0, fast_bf16=True)
OLD_CPU = runtime.Machine("test", 2, 8.0, fast_bf16=False)
MAC = runtime.Machine("Apple M2", 8, 16.0, False, note="the Apple GPU (MPS) is not used: never run")
T4 = runtime.Machine("test", 2, 12.0, True, "T4", (7, 5), 15.0)
L4 = runtime.Machine("test", 8, 32.0, True, "L4", (8, 9), 22.5)
A100 = runtime.Machine("test", 12, 83.0, True, "A100", (8, 0), 39.6)
H100 = runtime.Machine("test", 26, 200.0, True, "H100", (9, 0), 79.6)
LAPTOP = runtime.Machine("test", 8, 32.0, True, "RTX 3060 Laptop", (8, 6), 6.0)
TINY = runtime.Machine("test", 8, 16.0, False, "MX450", (7, 5), 2.0)
GPUS = (T4, L4, A100, H100, LAPTOP)


@pytest.fixture
def fake_torch(monkeypatch):
    """Make torch say that it found these GPUs, and nvidia-smi that it is there or not."""
    import torch

    for name in ("CUDA_VISIBLE_DEVICES", "LOCAL_RANK", "WORKSHOP_PROFILE", "WORKSHOP_MODEL"):
        # set first, so that what the code sets is taken back after the test
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")

    def fake(gpus=0, cuda="13.0", driver=False, mps=False, device=T4, warning=None):
        def available():
            if warning:
                import warnings

                warnings.warn(warning)
            return gpus > 0

        total = int(device.gpu_memory_gb * 2**30)
        properties = SimpleNamespace(name=device.gpu, total_memory=total)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(machines.shutil, "which", lambda name: "nvidia-smi" if driver else None)
        for name, value in {
            "is_available": available,
            "device_count": lambda: gpus,
            "is_bf16_supported": lambda *a: True,  # as torch says on a T4, by emulation
            "get_device_properties": lambda i: properties,
            "get_device_capability": lambda i: device.capability,
            "mem_get_info": lambda i: (total // 2, total),
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)

    return fake


def test_import_helpers_imports_no_torch():
    code = "import sys, helpers, helpers.runtime, helpers.data, helpers.evaluation; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=runtime.project_root()
    )
    assert done.stdout.strip() == "False", done.stderr


# Which profile


def test_no_gpu_gives_the_embedded_model():
    profile = runtime.choose_profile(CPU, {})
    assert (profile.name, profile.model, profile.device) == ("cpu", runtime.EMBEDDED, "cpu")


@pytest.mark.parametrize(("machine", "dtype"), [(CPU, "bfloat16"), (OLD_CPU, "float32")])
def test_cpu_precision_follows_its_arithmetic(machine, dtype):
    assert runtime.choose_profile(machine, {}).dtype == dtype


def test_the_cpu_profile_trains_as_lesson_04_measured_it():
    profile = runtime.choose_profile(CPU, {})
    assert (profile.batch_size, profile.accumulation, profile.attention) == (4, 1, "sdpa")
    assert not profile.quantized


def test_a_t4_gets_fp16_and_qlora_although_torch_says_that_bf16_is_supported(fake_torch):
    fake_torch(gpus=1, device=T4)
    profile = runtime.choose_profile(runtime.detect(), {})
    assert (profile.name, profile.dtype, profile.adapter) == ("t4", "float16", "QLoRA")


@pytest.mark.parametrize("machine", (L4, A100, H100))
def test_a_gpu_with_bf16_and_room_gets_the_large_model_unquantized(machine):
    profile = runtime.choose_profile(machine, {})
    assert (profile.name, profile.model) == ("gpu", runtime.LARGE_GPU)
    assert (profile.dtype, profile.adapter) == ("bfloat16", "LoRA")


def test_a_gpu_of_6_gb_gets_the_small_model_in_4_bit():
    profile = runtime.choose_profile(LAPTOP, {})
    assert (profile.name, profile.model) == ("gpu", runtime.SMALL_GPU)
    assert (profile.dtype, profile.adapter) == ("bfloat16", "QLoRA")


def test_a_gpu_too_small_to_train_on_is_left_idle_and_the_reason_says_so():
    profile = runtime.choose_profile(TINY, {})
    assert (profile.name, profile.device) == ("cpu", "cpu")
    assert "2.0 GiB" in profile.reason


def test_a_mac_gets_the_cpu_in_float32_and_hears_that_its_gpu_is_not_used(fake_torch):
    fake_torch(mps=True, cuda=None)
    note = runtime.detect().note
    assert "Apple GPU" in note and "never been run" in note
    profile = runtime.choose_profile(MAC, {})
    assert (profile.name, profile.device, profile.dtype) == ("cpu", "cpu", "float32")
    assert dict(profile.reasons)["device"] == MAC.note


# Attention


@pytest.mark.parametrize(
    ("machine", "attention"), [(T4, "sdpa"), (L4, "flash_attention_2"), (CPU, "sdpa")]
)
def test_flash_attention_is_taken_only_where_the_gpu_can_run_it(machine, attention):
    installed = runtime.replace(machine, flash_attention=True)
    assert runtime.choose_profile(installed, {}).attention == attention


@pytest.mark.parametrize("machine", GPUS)
def test_without_the_package_attention_is_pytorchs_own(machine):
    assert runtime.choose_profile(machine, {}).attention == "sdpa"


# Rows at a time


@pytest.mark.parametrize("machine", GPUS)
@pytest.mark.parametrize("busy", (0.0, 0.3, 0.6, 0.95))
def test_an_optimiser_step_has_as_many_rows_whatever_is_free(machine, busy):
    machine = runtime.replace(machine, gpu_free_gb=machine.gpu_memory_gb * (1 - busy))
    profile = runtime.choose_profile(machine, {})
    assert profile.batch_size * profile.accumulation == runtime.EFFECTIVE_BATCH


def test_less_free_memory_means_fewer_rows_at_a_time():
    rows = [
        runtime.choose_profile(runtime.replace(A100, gpu_free_gb=free), {}).batch_size
        for free in (39.0, 20.0, 14.0, 5.0)
    ]
    assert rows == [4, 2, 1, 1]


def test_a_model_of_unknown_size_is_trained_one_row_at_a_time():
    profile = runtime.choose_profile(H100, {"WORKSHOP_MODEL": "owner/name"})
    assert (profile.batch_size, profile.accumulation) == (1, runtime.EFFECTIVE_BATCH)
    assert "not known" in dict(profile.reasons)["batch_size"]


# Reasons


@pytest.mark.parametrize("machine", (CPU, OLD_CPU, MAC, TINY, *GPUS))
def test_every_setting_is_explained(machine):
    table = runtime.explain(runtime.choose_profile(machine, {}))
    settings = {"name", "model", "dtype", "adapter", "attention", "batch_size", "accumulation"}
    assert set(table.index) == settings | {"device"}
    assert all(table["reason"].str.len() > 5)


def test_start_prints_one_line_on_a_plain_cpu_and_two_on_a_gpu(fake_torch, capsys):
    fake_torch(cuda=None)
    runtime.start()
    assert len(capsys.readouterr().out.splitlines()) == 1
    fake_torch(gpus=1)
    runtime.start()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and "attention sdpa" in lines[1] and "4 x 1 rows" in lines[1]


# What is there but not used


def test_of_two_gpus_the_second_is_hidden_from_the_trainer_and_named_idle(fake_torch, capsys):
    fake_torch(gpus=2)
    runtime.start()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    assert "GPU 0 of 2 is used" in (out := capsys.readouterr().out) and "torchrun" in out


def test_the_first_of_the_gpus_that_the_user_left_visible_is_taken(fake_torch, monkeypatch):
    fake_torch(gpus=2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    runtime.use_first_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"


def test_torchrun_keeps_all_its_gpus(fake_torch, monkeypatch):
    fake_torch(gpus=2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert runtime.use_first_gpu() == ""
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_a_cuda_build_without_a_driver_says_so_and_runs_on_the_cpu(fake_torch, capsys):
    fake_torch(cuda="13.0", driver=False)
    assert runtime.start().device == "cpu"
    out = capsys.readouterr().out
    assert "built for CUDA 13.0, but no NVIDIA driver is installed: running on the CPU" in out


def test_a_driver_that_gives_no_gpu_is_told_from_none_with_what_torch_said(fake_torch):
    fake_torch(driver=True)
    assert "`nvidia-smi` shows" in runtime.detect().note
    fake_torch(driver=True, warning="CUDA initialization: The NVIDIA driver is too old. Update it.")
    assert "The NVIDIA driver is too old" in runtime.detect().note


def test_gpus_hidden_by_the_environment_are_told_from_absent_ones(fake_torch, monkeypatch):
    fake_torch(driver=True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES hides" in runtime.detect().note


def test_a_cpu_build_without_a_gpu_has_nothing_to_note(fake_torch):
    fake_torch(cuda=None)
    assert runtime.detect().note == ""


# Overrides


def test_unknown_profile_says_what_is_allowed():
    with pytest.raises(ValueError, match="one of cpu, t4, gpu"):
        runtime.choose_profile(CPU, {"WORKSHOP_PROFILE": "tpu"})


@pytest.mark.parametrize("wanted", ("t4", "gpu"))
def test_a_gpu_profile_without_a_gpu_is_refused_and_says_why(wanted):
    with pytest.raises(ValueError, match="no CUDA device.*use cpu"):
        runtime.choose_profile(CPU, {"WORKSHOP_PROFILE": wanted})
    with pytest.raises(ValueError, match="Apple GPU"):
        runtime.choose_profile(MAC, {"WORKSHOP_PROFILE": wanted})


def test_the_bf16_profile_on_a_t4_is_refused_and_says_what_is_allowed():
    with pytest.raises(ValueError, match="capability 7.5.*use t4 or cpu"):
        runtime.choose_profile(T4, {"WORKSHOP_PROFILE": "gpu"})


def test_overrides_win():
    profile = runtime.choose_profile(T4, {"WORKSHOP_PROFILE": "cpu", "WORKSHOP_MODEL": "./mine"})
    assert (profile.name, profile.model, profile.device) == ("cpu", "./mine", "cpu")
    assert runtime.choose_profile(H100, {"WORKSHOP_PROFILE": "T4 "}).dtype == "float16"


# Packages


def test_a_torchao_that_peft_refuses_is_found_at_the_start_and_the_cpu_stays_offline(tmp_path):
    """Through PEFT's own check, in a process of its own, with a package of the version that Colab has."""
    (tmp_path / "torchao").mkdir()
    (tmp_path / "torchao" / "__init__.py").touch()
    info = tmp_path / "torchao-0.10.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torchao\nVersion: 0.10.0\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from helpers import runtime\n"
        "try: runtime.start()\n"
        "except RuntimeError as error: print(error)\n"
        "import huggingface_hub; print('offline', huggingface_hub.is_offline_mode())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=runtime.project_root(),
        env={k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
        | {"WORKSHOP_PROFILE": "cpu"},
    )
    assert "torchao. Found version 0.10.0" in done.stdout, done.stderr
    assert "pip uninstall -y torchao" in done.stdout and "offline True" in done.stdout


def test_a_jax_that_is_installed_leaves_the_gpu_alone(tmp_path):
    """bm25s starts JAX on import where it is there, as on Colab, and JAX takes three quarters of a GPU's memory."""
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").touch()
    said = "import os; print('jax on', os.environ.get('JAX_PLATFORMS'))\n"
    (tmp_path / "jax" / "lax.py").write_text(said + "def top_k(scores, k): return scores, k\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from helpers import runtime; runtime.start(); import bm25s"
    )
    env = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"}
    for asked, found in ({}, "cpu"), ({"JAX_PLATFORMS": "cuda"}, "cuda"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            cwd=runtime.project_root(),
            env=env | asked,
        )
        assert f"jax on {found}" in done.stdout, done.stderr


def test_a_torchao_that_peft_takes_is_no_reason_to_stop(monkeypatch):
    import peft.import_utils

    monkeypatch.setattr(runtime, "find_spec", lambda name: name)
    monkeypatch.setattr(peft.import_utils, "is_torchao_available", lambda: True)
    runtime.check_torchao()


def test_dry_run_scales_but_leaves_something(monkeypatch):
    monkeypatch.delenv("WORKSHOP_SHARE", raising=False)
    monkeypatch.setenv("WORKSHOP_FAST", "1")
    assert (runtime.scaled(1000), runtime.scaled(20), runtime.scaled(3)) == (100, 8, 3)
    monkeypatch.setenv("WORKSHOP_FAST", "0")
    assert runtime.scaled(1000) == 1000 and not runtime.fast()
    monkeypatch.setenv("WORKSHOP_SHARE", "0.5")
    assert runtime.scaled(1000) == 500 and runtime.fast()


def test_a_thinned_split_is_spread_over_all_of_it(monkeypatch):
    monkeypatch.setenv("WORKSHOP_SHARE", "0.5")
    assert runtime.thinned(list(range(9)), least=1) == [0, 2, 4, 6]
    assert runtime.thinned([1, 2, 3]) == [1, 2, 3] and runtime.thinned([]) == []
    monkeypatch.setenv("WORKSHOP_SHARE", "1")
    assert runtime.thinned(list(range(9))) == list(range(9))


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "half", "nan"])
def test_a_share_that_is_none_says_what_is_allowed(monkeypatch, text):
    monkeypatch.setenv("WORKSHOP_SHARE", text)
    with pytest.raises(ValueError, match="above 0 and up to 1"):
        runtime.share()


@pytest.mark.parametrize(
    ("flags", "gain", "fast", "slow", "dtype"),
    [
        ("fpu avx2 avx512f avx512_bf16", 3.7, True, False, "bfloat16"),
        ("fpu avx2 avx512f avx512_bf16", 0.6, False, True, "float32"),
        ("fpu amx_bf16 amx_tile", 6.0, True, False, "bfloat16"),
        ("fpu avx512f", 3.7, False, False, "float32"),
    ],
)
def test_bf16_is_used_where_the_processor_has_it_and_is_faster_with_it(
    fake_torch, monkeypatch, flags, gain, fast, slow, dtype
):
    fake_torch(cuda=None)
    text = f"processor\t: 0\nmodel name\t: Test CPU\nflags\t\t: {flags}\n"
    monkeypatch.setattr(machines.Path, "read_text", lambda path: text)
    speed = {"float32": 1e11, "bfloat16": gain * 1e11, "int8": 1e11}
    monkeypatch.setattr(machines, "product_flops", lambda dtype, **threads: speed[dtype])
    machine = runtime.detect()
    assert (machine.cpu, machine.fast_bf16, machine.slow_bf16) == ("Test CPU", fast, slow)
    profile = runtime.choose_profile(machine, {})
    assert profile.dtype == dtype
    assert ("float32 faster" in profile.reason) == slow and (
        "with slow bf16" in str(machine)
    ) == slow


@pytest.mark.parametrize(
    ("gpus", "speed", "share"), [(0, 1.9e12, 0.5), (0, 3e11, 0.15), (1, 3e11, 0.5)]
)
def test_make_test_does_what_the_machine_can_do_in_its_time(
    fake_torch, monkeypatch, gpus, speed, share
):
    fake_torch(gpus=gpus, device=L4)
    monkeypatch.setattr(machines, "product_flops", lambda dtype, **threads: speed)
    assert runtime.share_for_tests() == share


def test_a_product_is_timed_once_in_each_precision():
    machines.product_flops.cache_clear()
    found = [machines.product_flops(dtype, 64, 1) for dtype in ("float32", "bfloat16") * 2]
    assert min(found) > 0 and machines.product_flops.cache_info().misses == 2
    machines.product_flops.cache_clear()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the resident set of Linux")
def test_memory_that_was_freed_goes_back_to_the_system():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    if runtime._heap_trim() is None:
        pytest.skip("no glibc here")
    pieces = [bytearray(100_000) for _ in range(2_000)]
    kept = bytearray(100_000)  # at the top of the heap: what is below it does not go back by itself
    before = resident()
    del pieces
    runtime.give_memory_back()
    assert before - resident() > 100e6 and len(kept)


def test_without_glibc_nothing_is_given_back_and_nothing_breaks(monkeypatch):
    monkeypatch.setattr(runtime, "_heap_trim", lambda: None)
    runtime.give_memory_back(collect=True)
