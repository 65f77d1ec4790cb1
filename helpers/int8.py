"""Products in 8 bit: for long training runs on a CPU whose integer units are several times as fast as its float32 and its bf16.

Introduced in lesson 04, section 4.5. What a LoRA run multiplies by is frozen, so its rounding to 255 steps, with a scale for each output,
is made once. Tokens are rounded as they come, with a scale for each token (Dettmers et al. 2022, section 2), and forwards twice: what the first
rounding leaves over is rounded again, since a few large channels make the steps too wide for the others. A processor with VNNI multiplies four
such numbers in the time of one in float32. The model's weights stay as they are, and so does what replies are written with.
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST = 64  # a side as short as an adapter's rank: too small to gain
STEPS = 127  # from zero to the largest number of a token, or of an output's weights
BUFFERS = ("forth", "forth_step", "back", "back_step")  # the weights in steps, for each direction
REST_STEPS = 254  # of one step: what rounding leaves over is half a step at most


def rounded(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """``x`` in steps, int8, and the size of a step along ``dim`` (kept, of size 1): their product is ``x``, rounded."""
    step = x.abs().amax(dim, keepdim=True).clamp(min=1e-30) / STEPS
    return (x * (1 / step)).round().to(torch.int8), step


def rounded_twice(x: Tensor) -> tuple[Tensor, Tensor]:
    """(tokens, width) in steps, and below it what that leaves over in 254ths of a step: int8, (2 * tokens, width); and each token's step."""
    step = x.abs().amax(-1, keepdim=True).clamp(min=1e-30) / STEPS
    exact = x * (1 / step)
    whole = exact.round()
    rest = ((exact - whole) * REST_STEPS).round()
    return torch.cat([whole, rest]).to(torch.int8), step


class _Product(torch.autograd.Function):
    """(tokens, in) times frozen weights: (tokens, out). The gradient of the tokens is a product in 8 bit, too, rounded once.

    So does SwitchBack (Wortsman et al. 2023), which keeps the gradient of the weights in 16 bit; frozen weights have none.
    """

    @staticmethod
    def forward(ctx, x, forth, forth_step, back, back_step):
        ctx.save_for_backward(back, back_step)
        tokens, step = rounded_twice(x)
        both = torch._int_mm(tokens, forth)
        return (both[: len(x)] + both[len(x) :] * (1 / REST_STEPS)) * step * forth_step

    @staticmethod
    def backward(ctx, upstream):
        back, back_step = ctx.saved_tensors
        tokens, step = rounded(upstream, -1)
        return torch._int_mm(tokens, back) * step * back_step, None, None, None, None


class FrozenLinear(torch.nn.Linear):
    """A linear layer whose weights are not trained, multiplied in 8 bit. ``weight`` stays as it was and is not looked at again."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out), float32."""
        tokens = x.reshape(-1, x.shape[-1])
        y = _Product.apply(tokens, self.forth, self.forth_step, self.back, self.back_step)
        y = y.view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias


def freeze(model) -> int:
    """Let the float32 linear layers that are not trained multiply in 8 bit, until ``thaw``; returns how many.

    Left alone are the head, an adapter's thin matrices, and what another library has wrapped. Each layer takes a quarter of its memory more for each of the
    two directions.
    """
    head, frozen = model.get_output_embeddings(), 0
    for module in model.modules():
        if type(module) is not torch.nn.Linear or module is head or "forward" in vars(module):
            continue
        weight = module.weight
        if weight.requires_grad or weight.dtype != torch.float32 or min(weight.shape) <= SMALLEST:
            continue
        forth, forth_step = rounded(weight, 1)
        back, back_step = rounded(weight, 0)
        found = (forth.T.contiguous(), forth_step.T, back, back_step)
        for name, value in zip(BUFFERS, found):
            module.register_buffer(name, value, persistent=False)
        module.__class__ = FrozenLinear
        frozen += 1
    return frozen


def thaw(model) -> int:
    """Let the layers that ``freeze`` changed multiply by their own weights again; returns how many.

    To be done before an adapter is merged: merging writes to ``weight``, which a frozen layer does not look at, so the adapter would be gone.
    """
    thawed = 0
    for module in model.modules():
        if type(module) is FrozenLinear:
            for name in BUFFERS:
                delattr(module, name)
            module.__class__ = torch.nn.Linear
            thawed += 1
    return thawed
