import subprocess
import sys

import pytest

from helpers import runtime

CPU = runtime.Machine("test", 2, 8.0, fast_bf16=True)
T4 = runtime.Machine("test", 2, 12.0, True, "T4", (7, 5), 15.0)
L4 = runtime.Machine("test", 8, 32.0, True, "L4", (8, 9), 22.5)
SMALL = runtime.Machine("test", 8, 32.0, True, "RTX 3060 Laptop", (8, 6), 6.0)


def test_import_helpers_imports_no_torch():
    code = "import sys, helpers, helpers.runtime, helpers.data, helpers.evaluation; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=runtime.project_root()
    )
    assert done.stdout.strip() == "False", done.stderr


def test_no_gpu_gives_the_embedded_model():
    profile = runtime.choose_profile(CPU, {})
    assert (profile.name, profile.model, profile.device) == ("cpu", runtime.EMBEDDED, "cpu")


@pytest.mark.parametrize(("fast", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_cpu_precision_follows_its_arithmetic(fast, dtype):
    machine = runtime.Machine("test", 2, 8.0, fast_bf16=fast)
    assert runtime.choose_profile(machine, {}).dtype == dtype


def test_t4_gets_fp16_and_qlora_although_bf16_is_emulated_there():
    profile = runtime.choose_profile(T4, {})
    assert (profile.name, profile.dtype, profile.adapter) == ("t4", "float16", "QLoRA")


def test_large_gpu_gets_the_large_model_and_a_small_one_the_small():
    assert runtime.choose_profile(L4, {}).model == runtime.LARGE_GPU
    assert runtime.choose_profile(SMALL, {}).model == runtime.SMALL_GPU


def test_unknown_profile_says_what_is_allowed():
    with pytest.raises(ValueError, match="one of cpu, t4, gpu"):
        runtime.choose_profile(CPU, {"WORKSHOP_PROFILE": "tpu"})


def test_gpu_profile_without_a_gpu_is_refused():
    with pytest.raises(ValueError, match="no CUDA device"):
        runtime.choose_profile(CPU, {"WORKSHOP_PROFILE": "gpu"})


def test_overrides_win():
    profile = runtime.choose_profile(T4, {"WORKSHOP_PROFILE": "cpu", "WORKSHOP_MODEL": "./mine"})
    assert (profile.name, profile.model) == ("cpu", "./mine")


def test_dry_run_scales_but_leaves_something(monkeypatch):
    monkeypatch.setenv("WORKSHOP_FAST", "1")
    assert (runtime.scaled(1000), runtime.scaled(20), runtime.scaled(3)) == (100, 8, 3)
    monkeypatch.setenv("WORKSHOP_FAST", "0")
    assert runtime.scaled(1000) == 1000
