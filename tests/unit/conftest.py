import pytest


@pytest.fixture(autouse=True)
def whole_work(monkeypatch):
    """Unit tests do all of their work, whatever part of it ``make test`` asks the lessons for."""
    monkeypatch.delenv("WORKSHOP_SHARE", raising=False)
    monkeypatch.delenv("WORKSHOP_FAST", raising=False)


@pytest.fixture
def tiny(monkeypatch, tiny_llama):
    """Every model is a small random one that ends at once or never, and all work is a dry run's."""
    from helpers import models, runtime

    profile = runtime.Profile("cpu", runtime.EMBEDDED, "float32", False, "cpu", "test")
    tokenizer = models.load_tokenizer(profile)
    monkeypatch.setenv("WORKSHOP_FAST", "1")
    monkeypatch.setenv("WORKSHOP_COMPILE", "0")
    monkeypatch.setattr(
        models,
        "load_model",
        lambda profile: tiny_llama(vocab_size=len(tokenizer), max_position_embeddings=2048).eval(),
    )
