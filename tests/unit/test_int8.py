import pytest
import torch
from peft import LoraConfig, get_peft_model

from helpers import int8, machine, runtime, training

torch_has_it = pytest.mark.skipif(not hasattr(torch, "_int_mm"), reason="no 8-bit product")
pytestmark = torch_has_it


def frozen_layer(width=96, out=80, bias=False):
    """A linear layer that multiplies in 8 bit, and the same one in float32."""
    torch.manual_seed(0)
    plain = torch.nn.Linear(width, out, bias=bias).requires_grad_(False)
    model = Body(torch.nn.Linear(width, out, bias=bias).requires_grad_(False))
    model.layer.load_state_dict(plain.state_dict())
    assert int8.freeze(model) == 1
    return model.layer, plain


class Body(torch.nn.Module):
    """As much of a model as ``freeze`` asks for."""

    def __init__(self, layer, head=None):
        super().__init__()
        self.layer, self.head = layer, head

    def get_output_embeddings(self):
        return self.head


def far(found, expected) -> float:
    return float((found - expected).norm() / expected.norm())


def with_outlier(*shape):
    torch.manual_seed(1)
    x = torch.randn(shape)
    x[..., 3] *= 30  # the channel that makes a token's steps wide
    return x


@pytest.mark.parametrize("bias", [False, True])
def test_a_product_is_that_of_float32_up_to_the_rounding_of_the_weights(bias):
    ours, plain = frozen_layer(bias=bias)
    x = with_outlier(2, 5, 96)
    assert ours(x).shape == (2, 5, 80) and far(ours(x), plain(x)) < 0.01


def test_a_thawed_layer_is_the_one_before_and_sees_what_is_merged_into_its_weight():
    ours, plain = frozen_layer()
    model, x = Body(ours), with_outlier(3, 96)
    assert int8.thaw(model) == 1 and int8.thaw(model) == 0
    assert torch.equal(ours(x), plain(x)) and not list(ours.buffers())
    ours.weight.data += 1
    assert far(ours(x), plain(x)) > 0.5


def test_rounding_what_is_left_over_gains_seven_bits():
    x = with_outlier(7, 96)
    once, step = int8.rounded(x, -1)
    twice, same = int8.rounded_twice(x)
    assert torch.equal(step, same) and twice.dtype == once.dtype == torch.int8
    finer = (twice[:7] + twice[7:] / int8.REST_STEPS) * step
    assert far(finer, x) < far(once * step, x) / 100


def test_the_gradient_of_the_tokens_is_that_of_float32_up_to_its_rounding():
    ours, plain = frozen_layer()
    upstream, found = with_outlier(6, 80), []
    for layer in (ours, plain):
        x = with_outlier(6, 96).requires_grad_()
        layer(x).backward(upstream)
        found.append(x.grad)
    assert far(*found) < 0.1
    assert torch.cosine_similarity(*(each.flatten() for each in found), dim=0) > 0.99


def test_a_token_of_zeros_stays_zero_and_weights_of_zeros_do_too():
    ours, _ = frozen_layer()
    assert torch.equal(ours(torch.zeros(3, 96)), torch.zeros(3, 80))
    empty = Body(torch.nn.Linear(96, 80, bias=False).requires_grad_(False))
    empty.layer.weight.zero_()
    int8.freeze(empty)
    assert torch.equal(empty.layer(torch.randn(3, 96)), torch.zeros(3, 80))


def layer_of(width=96, dtype=torch.float32, trained=False):
    return torch.nn.Linear(width, 96).to(dtype).requires_grad_(trained)


@pytest.mark.parametrize(
    "body",
    [
        Body(layer_of(trained=True)),
        Body(layer_of(dtype=torch.bfloat16)),
        Body(layer_of(width=int8.SMALLEST)),
        Body(None, head=layer_of()),
    ],
    ids=["trained", "bf16", "thin", "head"],
)
def test_only_frozen_wide_float32_layers_other_than_the_head_are_changed(body):
    assert int8.freeze(body) == 0


def test_weights_and_what_is_saved_stay_as_they_were(tiny_llama):
    model = tiny_llama(hidden_size=96).requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert int8.freeze(model) > 0
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert int8.freeze(model) == 0  # once is enough


def test_an_adapter_learns_on_frozen_layers_as_it_does_in_float32(tiny_llama):
    ids, losses, changes = torch.arange(48).view(2, 24) % 29, [], []
    for eighth in (False, True):
        model = tiny_llama(vocab_size=32, hidden_size=96, intermediate_size=128)
        torch.manual_seed(0)
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
        count = int8.freeze(model.get_base_model()) if eighth else 0
        assert (count > 0) is eighth
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-2)
        for _ in range(12):
            loss = model(ids, labels=ids).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        changes.append(losses[-12] - losses[-1])
    assert changes[0] > 0.3 and changes[1] == pytest.approx(changes[0], rel=0.05)


@pytest.mark.parametrize(
    ("speed", "fast_int8"),
    [
        ({"float32": 3, "bfloat16": 1, "int8": 13}, True),
        ({"float32": 3, "bfloat16": 1, "int8": 5}, False),
        ({"float32": 3, "bfloat16": 1, "int8": 0.0}, False),
        ({"float32": 3, "bfloat16": 20, "int8": 30}, False),
    ],
    ids=["VNNI", "hardly faster", "no such product", "bf16 is fast"],
)
def test_8_bit_is_for_processors_where_it_is_much_faster_and_bf16_is_not(
    monkeypatch, speed, fast_int8
):
    monkeypatch.delenv("WORKSHOP_INT8", raising=False)
    monkeypatch.setattr(machine, "_cpu_flags", lambda: ("Test CPU", {"avx512_bf16"}))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine, "product_flops", lambda dtype, **threads: speed[dtype])
    found = machine.detect()
    profile = runtime.choose_profile(found, {})
    assert (found.fast_int8, profile.int8) == (fast_int8, fast_int8)
    assert ("int8" in dict(profile.reasons)) is fast_int8
    assert ("products in 8 bit" in str(found)) is fast_int8
    monkeypatch.setenv("WORKSHOP_INT8", "0")
    assert not machine.detect().fast_int8


def test_a_gpu_never_multiplies_so():
    gpu = runtime.Machine("test", 2, 8.0, False, "L4", (8, 9), 22.0, fast_int8=True)
    assert not runtime.choose_profile(gpu, {}).int8


def test_the_speed_of_an_8_bit_product_is_measured():
    machine.product_flops.cache_clear()
    usual = torch.get_num_threads()
    assert machine.product_flops("int8", 64, 1, threads=1) > 0
    assert torch.get_num_threads() == usual
    machine.product_flops.cache_clear()


def test_runs_in_8_bit_have_a_name_of_their_own(tmp_path):
    from trl import SFTConfig

    arguments = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    profile = runtime.Profile("cpu", runtime.EMBEDDED, "float32", False, "cpu", "test")
    names = {
        training.run_key(LoraConfig(), arguments, runtime.replace(profile, int8=each), [])
        for each in (False, True)
    }
    assert len(names) == 2
