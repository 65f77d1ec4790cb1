import copy
import json

import pytest

ROW = {
    "id": "t-1",
    "ticket": "How long may I keep the Moss City I ordered online?",
    "facets": ["terse"],
    "asks": ["return_window"],
    "reply": {
        "intent": "returns",
        "priority": "normal",
        "product": "Moss City",
        "policy": "RET-1",
        "reply": "You can send it back within 45 days of delivery. - Bramble desk",
    },
}


@pytest.fixture
def make_row():
    """A valid ticket row, with top-level fields or fields of the reply replaced by name."""

    def make(**changes):
        row = copy.deepcopy(ROW)
        for name, value in changes.items():
            (row["reply"] if name in ("intent", "priority", "product", "policy") else row)[name] = (
                value
            )
        return row

    return make


@pytest.fixture
def write(tmp_path):
    """Write rows (dicts, text lines or bytes) to a ticket file and return its path."""

    def save(*lines, end=b"\n"):
        raw = [
            x if isinstance(x, bytes) else (x if isinstance(x, str) else json.dumps(x)).encode()
            for x in lines
        ]
        path = tmp_path / "mine.jsonl"
        path.write_bytes(end.join(raw))
        return path

    return save
