"""The rows of a batch on one line: no padding between them, and the tokens that all rows begin with only once.

Introduced in lesson 04, section 4.5. Every map of a model but attention works on each token alone, so it does not matter which row a
token belongs to. Attention asks, so there the rows are taken apart, and only there. transformers has padding-free batches for
kernels that need a GPU; this is the same idea for two matrix products on a CPU, and with the shared beginning (the system prompt) read once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask

NAME = "padding_free"


class Line(NamedTuple):
    """A batch of ``rows`` by ``width`` laid out on a line of ``length`` tokens."""

    tokens: Tensor  # (length,) ids; behind the last row's last token comes filling
    positions: Tensor  # (length,) place in its row, from 0
    to_rows: Tensor  # (rows, width) where on the line each token of the batch is; 0 for padding
    to_line: (
        Tensor  # (length,) where in the flattened batch each token of the line is; 0 for filling
    )
    owned: Tensor  # (rows, width) False for padding, and for the shared tokens of all rows but the first
    real: Tensor  # (length,) False for filling
    shared: int  # how many tokens all rows begin with (at least one is left to each row)


def lay_out(ids: Tensor, mask: Tensor, multiple: int = 16) -> Line:
    """Put a batch on one line. ``ids``, ``mask``: (rows, width), padded on the right (else ValueError); the line is filled up to a
    ``multiple``, so that lengths recur and kernels made for one are used again.
    """
    lengths, (rows, width) = mask.sum(1), ids.shape
    column = torch.arange(width, device=ids.device)
    inside = column < lengths[:, None]
    if not torch.equal(inside, mask.bool()):
        raise ValueError("a row is padded on the left or within: padding has to come last")
    same = (ids == ids[0]).all(0) & (column < lengths.min() - 1)
    shared = int(same.long().cumprod(0).sum())
    ends = shared + (lengths - shared).cumsum(0)
    to_rows = torch.where(column < shared, column, ends[:, None] - lengths[:, None] + column)
    to_rows = to_rows.where(inside, torch.zeros_like(to_rows))
    owned = inside & ((column >= shared) | (torch.arange(rows, device=ids.device) == 0)[:, None])
    length = int(ends[-1])
    filled = -(-length // multiple) * multiple
    to_line = torch.zeros(filled, dtype=torch.long, device=ids.device)
    to_line[:length] = owned.flatten().nonzero()[:, 0]
    real = torch.arange(filled, device=ids.device) < length
    return Line(ids.flatten()[to_line], to_line % width, to_rows, to_line, owned, real, shared)


class _ToRows(torch.autograd.Function):
    """(heads, length, dim) to (heads, rows * width, dim). Backward, a shared token takes the sum over the rows; by indexing alone
    torch would add up every gradient one by one.
    """

    @staticmethod
    def forward(ctx, line, to_rows, to_line, real, beginning):
        ctx.save_for_backward(to_line, real, beginning)
        ctx.rows, ctx.width = to_rows.shape
        return line[:, to_rows.flatten()]

    @staticmethod
    def backward(ctx, upstream):
        to_line, real, beginning = ctx.saved_tensors
        shared = len(beginning)
        heads, _, dim = upstream.shape
        by_row = upstream.view(heads, ctx.rows, ctx.width, dim)
        first = by_row[:, :, :shared].sum(1)
        own = upstream[:, to_line] * real[:, None]
        return torch.cat([first, own[:, shared:]], 1), None, None, None, None


class _ToLine(torch.autograd.Function):
    """(rows * width, heads, dim) to (length, heads, dim)."""

    @staticmethod
    def forward(ctx, batch, to_rows, to_line, owned):
        ctx.save_for_backward(to_rows, owned)
        return batch[to_line]

    @staticmethod
    def backward(ctx, upstream):
        to_rows, owned = ctx.saved_tensors
        return upstream[to_rows.flatten()] * owned.flatten()[:, None, None], None, None, None


def _attend(module, query, key, value, attention_mask, scaling=None, to_rows=None, **kwargs):
    """transformers' attention, (1, heads, length, dim) to (1, length, heads, dim), each row for itself; the usual one where there is no line."""
    if to_rows is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    to_line, owned, real, beginning = (
        kwargs[name] for name in ("to_line", "owned", "real", "beginning")
    )
    (rows, width), heads, groups = to_rows.shape, query.shape[1], key.shape[1]
    query, key, value = (
        _ToRows.apply(x[0], to_rows, to_line, real, beginning) for x in (query, key, value)
    )
    # the heads of a group share its keys: their queries are read as more rows of one product
    query = query.view(groups, heads // groups, rows, width, -1).permute(2, 0, 1, 3, 4)
    query = query.reshape(rows * groups, heads // groups * width, -1)
    key, value = (
        x.view(groups, rows, width, -1).transpose(0, 1).reshape(rows * groups, width, -1)
        for x in (key, value)
    )
    scores = (query @ key.mT).view(rows, groups, -1, width, width) * scaling + attention_mask
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    mixed = weights.view(rows * groups, -1, width) @ value
    mixed = mixed.view(rows, groups, -1, width, value.shape[-1]).permute(0, 3, 1, 2, 4)
    mixed = mixed.reshape(rows * width, heads, -1)
    return _ToLine.apply(mixed, to_rows, to_line, owned)[None], None


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, eager_mask)


def fits(model) -> bool:
    """Whether a model's attention can be replaced by this one: each token sees all before it, and nothing but a softmax weighs them."""
    special = (
        "sliding_window",
        "attention_chunk_size",
        "attn_logit_softcapping",
        "attention_dropout",
    )
    plain = not any(getattr(model.config, name, None) for name in special)
    return plain and bool(getattr(model, "_supports_attention_backend", False))


def hidden_states(forward, ids: Tensor, mask: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The body's last hidden states of a batch: (length, width) on a line, and where on it each token of the batch is (``Line.to_rows``).

    ``forward``: a model's body whose attention is ``NAME``; ``ids``, ``mask``: as for ``lay_out``; ``dtype``: the weights'.
    """
    line = lay_out(ids, mask)
    width = ids.shape[1]
    ahead = torch.full((width, width), torch.finfo(dtype).min, dtype=dtype, device=ids.device)
    output = forward(
        input_ids=line.tokens[None],
        position_ids=line.positions[None],
        attention_mask=ahead.triu(1)[None, None],
        use_cache=False,
        to_rows=line.to_rows,
        to_line=line.to_line,
        owned=line.owned.to(dtype),
        real=line.real.to(dtype),
        beginning=torch.empty(line.shared, device=ids.device),  # a compiler reads its length
    )
    return output.last_hidden_state[0], line.to_rows
