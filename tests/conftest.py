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


@pytest.fixture(scope="session")
def tiny_llama():
    """Build a two-layer Llama with random weights, the same ones each time; options go to its configuration."""

    def build(**options):
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
        shape = {"num_hidden_layers": 2, "num_key_value_heads": 1, "max_position_embeddings": 512}
        return LlamaForCausalLM(LlamaConfig(**{**sizes, **shape, **options}))

    return build
