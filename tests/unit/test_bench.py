from types import SimpleNamespace

import pytest

from benchmarks import bench

CONFIG = SimpleNamespace(
    hidden_size=8,
    intermediate_size=16,
    num_attention_heads=2,
    num_key_value_heads=1,
    num_hidden_layers=3,
    vocab_size=50,
)
LAYER = 8 * 8 + 2 * 4 * 8 + 8 * 8 + 3 * 16 * 8  # q, k and v, o, then the three of the MLP


def test_needed_flops_of_full_depth_are_counted_by_hand():
    pairs = 2 * ((8 + 8) + 2 * (4 + 8) + (8 + 8) + 3 * (16 + 8))
    attention = 2 * 10 * 8
    token = 3 * (2 * LAYER + attention) + 3 * (2 * LAYER + 2 * attention) + 3 * 6 * pairs
    assert bench.needed_flops(CONFIG, 0, 2, 100, 30, 10) == 100 * token + 30 * 4 * 8 * 50


def test_layers_without_adapter_need_no_backward_pass():
    whole, upper, none = (bench.needed_flops(CONFIG, first, 2, 1, 0, 0) for first in (0, 1, 3))
    assert none == 3 * 2 * LAYER
    assert whole - none == pytest.approx(1.5 * (upper - none))


def test_the_peak_is_a_positive_rate():
    assert 1e9 < bench.peak_flops("float32") < 1e14
