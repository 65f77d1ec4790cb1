import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM

from helpers import padding_free, training

P = 0  # what the rows below are padded with


def batch(*rows):
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[P] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask


def test_rows_stand_one_behind_the_other_and_what_all_begin_with_stands_once():
    line = padding_free.lay_out(*batch([7, 8, 1, 2], [7, 8, 3], [7, 8, 4, 5, 6]), multiple=10)
    assert line.tokens.tolist() == [7, 8, 1, 2, 3, 4, 5, 6, 7, 7]  # the last two are filling
    assert line.positions.tolist() == [0, 1, 2, 3, 2, 2, 3, 4, 0, 0]
    assert line.to_rows.tolist() == [[0, 1, 2, 3, 0], [0, 1, 4, 0, 0], [0, 1, 5, 6, 7]]
    assert line.to_line.tolist() == [0, 1, 2, 3, 7, 12, 13, 14, 0, 0]
    assert line.owned.int().tolist() == [[1, 1, 1, 1, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 1]]
    assert line.real.tolist() == [True] * 8 + [False] * 2
    assert line.shared == 2


def test_each_row_keeps_a_token_of_its_own():
    assert padding_free.lay_out(*batch([7, 8, 9], [7, 8, 9], [7, 8])).shared == 1
    alone = padding_free.lay_out(*batch([7, 8, 9]), multiple=1)
    assert alone.shared == 2 and alone.tokens.tolist() == [7, 8, 9]


def test_padding_on_the_left_is_refused():
    ids, mask = batch([7, 8, 9], [7, 8])
    with pytest.raises(ValueError, match="padding has to come last"):
        padding_free.lay_out(ids, mask.flip(1))


ROWS = {
    "a shared beginning": [[5, 6, 7, *range(10, 24)], [5, 6, 7, 30], [5, 6, 7, *range(40, 60)]],
    "none": [[5, 6, 7], [8, 9, 10, 11, 12], [13]],
    "one row": [[5, 6, 7, 8, 9]],
    "the same rows": [[5, 6, 7, 8]] * 3,
}


def loss_and_gradients(model, implementation, ids, mask):
    """What ``LeanSFTTrainer.compute_loss`` does with every token that has one before it graded."""
    model.set_attn_implementation(implementation)
    model.zero_grad()
    if implementation == padding_free.NAME:
        hidden, places = padding_free.hidden_states(model.model, ids, mask, model.dtype)
    else:
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
        places = torch.arange(ids.numel()).view_as(ids)
    keep = mask[:, 1:].bool()
    loss = training.completion_loss(
        hidden[places[:, :-1][keep]], model.lm_head.weight, ids[:, 1:][keep]
    )
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters()}


def far(found: dict, expected: dict) -> float:
    """The largest distance of two gradients of the same weight, by the length of the expected one."""
    return max(float((found[k] - expected[k]).norm() / expected[k].norm()) for k in expected)


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_loss_and_gradients_are_those_of_the_padded_batch(tiny_llama, rows):
    model = tiny_llama(
        vocab_size=64, num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3
    )
    ids, mask = batch(*rows)
    padded, theirs = loss_and_gradients(model, "sdpa", ids, mask)
    ours, found = loss_and_gradients(model, padding_free.NAME, ids, mask)
    assert ours == pytest.approx(padded, rel=1e-5)
    assert far(found, theirs) < 1e-5


def test_compiled_layers_give_the_same(tiny_llama):
    if not training.compiler_available():
        pytest.skip("no C++ compiler")
    model = tiny_llama(
        vocab_size=64, num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3
    )
    batches = [batch(*rows) for rows in ROWS.values()]
    expected = [loss_and_gradients(model, "sdpa", *each) for each in batches]
    for layer in model.model.layers:
        layer.compile(dynamic=True)
    for each, (padded, theirs) in zip(batches, expected):
        ours, found = loss_and_gradients(model, padding_free.NAME, *each)
        assert ours == pytest.approx(padded, rel=1e-5)
        assert far(found, theirs) < 1e-5


def test_a_model_that_was_trained_so_still_writes(tiny_llama):
    model = tiny_llama(vocab_size=64, initializer_range=0.3).eval()
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    asked = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": P}
    usual = model.generate(ids, **asked)
    model.set_attn_implementation(padding_free.NAME)
    assert torch.equal(model.generate(ids, **asked), usual)


def test_only_attention_that_sees_all_before_it_is_replaced(tiny_llama):
    model = tiny_llama(vocab_size=64)
    assert padding_free.fits(model)
    model.config.sliding_window = 128
    assert not padding_free.fits(model)
    old = BloomForCausalLM(BloomConfig(n_layer=1, n_head=1, hidden_size=8, vocab_size=16))
    assert not padding_free.fits(old)  # weighs by distance, and has an attention of its own
