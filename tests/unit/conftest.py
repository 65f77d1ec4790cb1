import pytest


@pytest.fixture(autouse=True)
def whole_work(monkeypatch):
    """Unit tests do all of their work, whatever part of it ``make test`` asks the lessons for."""
    monkeypatch.delenv("WORKSHOP_SHARE", raising=False)
    monkeypatch.delenv("WORKSHOP_FAST", raising=False)
