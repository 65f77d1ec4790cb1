"""One way to generate for all lessons: batched, sorted by length, the shared prefix computed once, metered.

Introduced in lesson 01, section 1.3.
"""

from __future__ import annotations

import functools
import time
from contextlib import contextmanager
from dataclasses import dataclass

from helpers import runtime
from helpers.data import MAX_WORDS, SIGN_OFF

PREFILL_ROWS = 8
ROOM = 32


@dataclass
class Reply:
    """One generated reply and its price: tokens read and written, seconds (its share of the batch's time)."""

    text: str
    prompt_tokens: int
    new_tokens: int
    seconds: float


def encode(tokenizer, messages: list[dict]) -> list[int]:
    """Token ids of a conversation, ending where the assistant's turn begins."""
    return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"])


def shared_prefix(prompts: list[list[int]]) -> int:
    """How many leading tokens all prompts share (at least one token is left to each)."""
    first, last = min(prompts), max(prompts)
    n = next((i for i, (a, b) in enumerate(zip(first, last)) if a != b), min(len(first), len(last)))
    return max(0, min(n, min(map(len, prompts)) - 1))


def context_window(model) -> int:
    """The longest sequence the model was trained for, in tokens."""
    return int(model.config.max_position_embeddings)


@contextmanager
def _plain_head(model):
    """Hand the head a contiguous last position while generating.

    ``generate`` asks for the last position of each row only, a strided view; on the CPU torch then multiplies row by row and
    copies the whole head for each: 57 MB a row here, gigabytes a batch, and most of the time that a prompt takes.
    """
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda module, inputs: (inputs[0].contiguous(),))
    try:
        yield
    finally:
        hook.remove()


def _can_pack() -> bool:
    """Whether this torch and this processor have oneDNN's products in bf16, and the operations to lay weights out for them."""
    import torch

    found = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return found and torch.ops.mkldnn._is_mkldnn_bf16_supported()


@contextmanager
def _packed_weights(model, rows: int):
    """On a CPU in bf16: the weights in oneDNN's own layout, made once for all tokens and not anew at each.

    torch has no public name for it: these are the operations that its compiler calls when it freezes weights (where
    they are missing, nothing changes). ``rows``: how many the layout is meant for. While it lasts, the weights take their memory twice.
    """
    import torch

    # a module with a forward of its own is packed already, or wrapped by another library
    linear = [m for m in model.modules() if type(m) is torch.nn.Linear and "forward" not in vars(m)]
    packed = []
    try:
        for module in linear if _can_pack() else ():
            weight = module.weight.detach()
            if weight.dtype != torch.bfloat16 or weight.device.type != "cpu":
                continue
            if min(weight.shape) <= 64:
                continue  # an adapter's: too small to gain
            laid_out = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
            module.forward = lambda x, laid_out=laid_out, bias=module.bias: (
                torch.ops.mkldnn._linear_pointwise(x, laid_out, bias, "none", [], "")
            )
            packed.append(module)
        yield
    finally:
        for module in packed:
            del module.forward


@functools.cache
def _can_merge() -> bool:
    """Whether this torch says, on a CPU, how much weight an attention gave in all, and lets heads share keys (an older one has the name
    alone, and reads beyond them).
    """
    import torch

    flash = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
    if flash is None or tuple(map(int, torch.__version__.split(".")[:2])) < (2, 9):
        return False
    query, key, value = torch.linspace(-1, 1, 64).view(4, 1, 2, 8).split([2, 1, 1])
    query, key, value = query.transpose(0, 1), key, value
    plain = torch.nn.functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)
    return torch.allclose(flash(query, key, value)[0], plain, atol=1e-5)


def _merged(query, key, value, prefix, mask, scaling: float):
    """Attention of several tokens a row to a shared prefix and to the row's own tokens: each part alone, then weighed.

    ``query``: (rows, heads, tokens, dim), ``key`` and ``value``: (rows, groups, tokens, dim), ``prefix``: keys and values of one row;
    returns (rows, tokens, heads, dim). The prefix is met by all rows at once and never copied to them. A part's weight follows from its log-sum-exp
    (cascade attention: Juravsky et al. 2024, Ye et al. 2024), which torch's fast attention on a CPU returns under a private name only.
    """
    import torch

    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    rows, heads, new, dim = query.shape
    asked = query.transpose(0, 1).reshape(1, heads, rows * new, dim)
    shared, shared_sum = flash(asked, prefix.keys, prefix.values, scale=scaling)
    own, own_sum = flash(query, key, value, attn_mask=mask, scale=scaling)
    shared_sum = shared_sum.view(heads, rows, new).transpose(0, 1)
    weight = (shared_sum - own_sum).sigmoid().to(own.dtype)[..., None]
    return own.lerp(shared.view(heads, rows, new, dim).transpose(0, 1), weight).transpose(1, 2)


def _cache_maker(model, prefix=None):
    """What makes an empty cache for a batch; with a ``prefix`` (a cache of one row), for rows that all begin with it.

    ``DynamicCache`` copies all that came before at every step, and a shared prefix to every row. Here a row's own tokens
    grow in a buffer with room, and the prefix is kept once: at each new token the queries of all rows meet it
    in one matrix product. Introduced in lesson 01, section 1.3.
    """
    import torch
    from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
    from transformers.cache_utils import DynamicLayer
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import eager_mask

    length = 0 if prefix is None else prefix.get_seq_length()

    class OwnTokens(DynamicLayer):
        """Grows by ``ROOM`` tokens at a time, once the prompts are read and joined."""

        room = None  # keys and values, of which self.keys and self.values are the first columns

        def get_seq_length(self) -> int:
            return length + super().get_seq_length()

        def update(self, keys, values, *args, **kwargs):
            if not self.is_initialized:
                return super().update(keys, values, *args, **kwargs)
            start, end = self.keys.shape[-2], self.keys.shape[-2] + keys.shape[-2]
            if self.room[0].shape[-2] < end:
                self.join([self], start)
            for room, new in zip(self.room, (keys, values)):
                room[:, :, start:end] = new
            self.keys, self.values = (room[:, :, :end] for room in self.room)
            # after a prefix the whole room, since a product copies a view; the mask hides what is not written yet
            return self.room if length else (self.keys, self.values)

        def join(self, parts: list[DynamicLayer], width: int) -> None:
            """Take over the tokens of ``parts``, the layer's caches of a few rows each, as one of ``width`` tokens and with room to grow.

            A part may be shorter: its columns are the last ones, as the rows are padded on the left.
            """
            rows, old = sum(len(part.keys) for part in parts), (self.keys, self.values)
            self.room = [x.new_zeros(rows, x.shape[1], width + ROOM, x.shape[3]) for x in old]
            start = 0
            for part in parts:
                end = start + len(part.keys)
                for room, read in zip(self.room, (part.keys, part.values)):
                    room[start:end, :, width - read.shape[2] : width] = read
                start = end
            self.keys, self.values = (room[:, :, :width] for room in self.room)

        def batch_select_indices(self, indices):
            end = self.keys.shape[-2]
            self.room = [room[indices] for room in self.room]
            self.keys, self.values = (room[:, :, :end] for room in self.room)

    def attend(module, query, key, value, attention_mask, scaling=None, **kwargs):
        layer = prefix.layers[module.layer_idx]
        (rows, heads, new, dim), groups = query.shape, key.shape[1]
        if new > 1:
            if query.device.type == "cpu" and _can_merge():
                own_mask = attention_mask[..., length:]
                return _merged(query, key, value, layer, own_mask, scaling), None
            key = torch.cat([layer.keys.expand(rows, -1, -1, -1), key], -2)
            value = torch.cat([layer.values.expand(rows, -1, -1, -1), value], -2)
            return sdpa_attention_forward(
                module, query, key, value, attention_mask, scaling=scaling
            )
        asked = (query * scaling).reshape(rows, groups, -1, dim)
        folded = asked.transpose(0, 1).reshape(groups, -1, dim)
        mask = attention_mask[..., length:]
        unwritten = key.shape[-2] - mask.shape[-1]
        mask = torch.nn.functional.pad(mask, (0, unwritten), value=torch.finfo(mask.dtype).min)
        own = asked @ key.mT + mask
        own = own.transpose(0, 1).reshape(groups, folded.shape[1], -1)
        # in 16 bit, too, torch sums a softmax in float32
        weights = torch.cat([folded @ layer.keys[0].mT, own], -1).softmax(-1)
        own = weights[..., length:].reshape(groups, rows, -1, key.shape[-2]).transpose(0, 1)
        mixed = (weights[..., :length] @ layer.values[0]).view(groups, rows, -1, dim)
        mixed = mixed.transpose(0, 1) + own @ value
        return mixed.reshape(rows, 1, heads, dim), None

    if prefix is not None:
        AttentionInterface.register("shared_prefix", attend)
        AttentionMaskInterface.register("shared_prefix", eager_mask)

    def new_cache():
        cache = DynamicCache()
        cache.layers = [OwnTokens() for _ in range(model.config.num_hidden_layers)]
        return cache

    return new_cache


def _read(model, ids, mask, positions, prefix: int, new_cache):
    """Run the prompts through the model, ``PREFILL_ROWS`` at a time; returns the last position's scores and one cache of all rows.

    A few rows at a time stay in the processor's cache, and where a shared prefix has to be copied to the rows, it is to these few. Each part
    is as wide as its own longest prompt; joined, all of them end in the same column.
    """
    import torch

    parts, scores, width = [], [], ids.shape[1] - prefix
    for start in range(0, len(ids), PREFILL_ROWS):
        cut = slice(start, start + PREFILL_ROWS)
        padded = int((mask[cut, prefix:] == 0).sum(-1).min())  # by all of these rows
        seen = torch.cat([mask[cut, :prefix], mask[cut, prefix + padded :]], -1)
        parts.append(new_cache())
        output = model(
            input_ids=ids[cut, prefix + padded :],
            attention_mask=seen,
            position_ids=positions[cut, padded:],
            past_key_values=parts[-1],
            use_cache=True,
            logits_to_keep=1,
        )
        scores.append(output.logits[:, -1])
    for layer, *others in zip(*(cache.layers for cache in parts)):
        layer.join([layer, *others], width)
    return torch.cat(scores), parts[0]


def _write(model, ids, mask, new_cache, prefix: int, limit: int, end: int, choose, processors):
    """Write every row of a batch token by token; a row that has ended leaves the batch. Returns lists of token ids.

    ``ids``, ``mask``: (rows, width), of which a cache of ``new_cache()`` holds the first ``prefix`` columns. What a step costs on a CPU
    grows with its rows; ``model.generate`` drags ended rows along to the end of the longest, here replies of 60 tokens beside a
    longest of 96. A processor is told who stays by ``keep(places)``.
    """
    import torch

    written: list[list[int]] = [[] for _ in ids]
    rows = torch.arange(len(ids), device=ids.device)
    done = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, prefix:]
    scores, cache = _read(model, ids, mask, positions, prefix, new_cache)
    for number in range(1, limit + 1):
        scores = scores.float()
        if processors is not None:
            scores = processors(ids, scores)
        token = choose(scores)
        for row, value, over in zip(rows.tolist(), token.tolist(), done.tolist()):
            if not over:
                written[row].append(value)
        done |= token == end
        if done.all() or number == limit:
            break
        step, positions = token[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], -1)
        ids = torch.cat([ids, step], -1)
        if done.float().mean() > 0.1:
            stay = (~done).nonzero()[:, 0]
            cache.batch_select_indices(stay)
            rows, done, step, ids = rows[stay], done[stay], step[stay], ids[stay]
            mask, positions = mask[stay], positions[stay]
            for processor in processors or ():
                processor.keep(stay.tolist())
        scores = model(
            input_ids=step,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
    return written


def generate(
    model,
    tokenizer,
    conversations: list[list[dict]],
    max_new_tokens: int = 96,
    batch_size: int = 64,
    temperature: float = 0.0,
    processors=None,
    progress: str | None = None,
) -> list[Reply]:
    """Reply to every conversation, in order; greedy unless ``temperature`` > 0.

    ``processors(prompt_width, rows)`` may return a ``LogitsProcessorList`` for a batch, of processors that have ``keep``
    (lesson 01 uses it for a grammar). ``progress`` labels a progress bar. The output is the same as one by one with
    ``model.generate``, apart from rounding in 16 bit. Raises ValueError if a prompt and its reply do not fit
    the context window.
    """
    import torch
    from tqdm.auto import tqdm
    from transformers import DynamicCache

    prompts = [encode(tokenizer, messages) for messages in conversations]
    if not prompts:
        return []
    longest, window = max(map(len, prompts)), context_window(model)
    if longest + max_new_tokens > window:
        raise ValueError(
            f"a prompt of {longest} tokens and {max_new_tokens} new ones exceed the window of {window}: "
            "use fewer examples or shorter sections"
        )
    replies: list[Reply | None] = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    prefix = shared_prefix(prompts) if len(prompts) > 1 else 0
    prefix_cache, prefix_seconds, attention = None, 0.0, model.config._attn_implementation

    def choose(scores):
        if temperature > 0:
            return torch.multinomial((scores / temperature).softmax(-1), 1)[:, 0]
        return scores.argmax(-1)

    bar = tqdm(total=len(prompts), desc=progress, disable=progress is None, leave=False)
    size = min(batch_size, len(prompts))
    with torch.inference_mode(), _plain_head(model), _packed_weights(model, size):
        if prefix >= 16:
            started = time.perf_counter()
            ids = torch.tensor([prompts[0][:prefix]], device=model.device)
            prefix_cache = model(
                ids, past_key_values=DynamicCache(), use_cache=True, logits_to_keep=1
            ).past_key_values
            prefix_seconds = (time.perf_counter() - started) / len(prompts)
        else:
            prefix = 0
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            started = time.perf_counter()
            suffixes = [prompts[i][prefix:] for i in rows]
            width = max(map(len, suffixes))
            pad = [width - len(s) for s in suffixes]
            head = prompts[rows[0]][:prefix]
            ids = torch.tensor(
                [head + [tokenizer.pad_token_id] * p + s for p, s in zip(pad, suffixes)]
            )
            mask = torch.tensor(
                [[1] * prefix + [0] * p + [1] * len(s) for p, s in zip(pad, suffixes)]
            )
            new_cache = _cache_maker(model, prefix_cache)
            if prefix_cache is not None:
                model.set_attn_implementation("shared_prefix")
            try:
                written = _write(
                    *(model, ids.to(model.device), mask.to(model.device), new_cache, prefix),
                    *(max_new_tokens, tokenizer.eos_token_id, choose),
                    processors and processors(ids.shape[1], rows),
                )
            finally:
                model.set_attn_implementation(attention)
            seconds = (time.perf_counter() - started) / len(rows) + prefix_seconds
            for i, tokens in zip(rows, written):
                text = tokenizer.decode(tokens, skip_special_tokens=True)
                replies[i] = Reply(text.strip(), len(prompts[i]), len(tokens), seconds)
            bar.update(len(rows))
    bar.close()
    if len(prompts) > 1:
        runtime.give_memory_back()  # the caches of many rows leave holes of a few hundred megabytes
    return replies


def latency(
    model,
    tokenizer,
    conversations: list[list[dict]],
    max_new_tokens: int = 96,
    processors=None,
) -> list[float]:
    """Seconds for each conversation, asked one at a time with nothing shared: as one user feels it. A dry run asks the first one only.

    ``processors`` as for ``generate``, so that a grammar's time counts, too.
    """
    asked = {"max_new_tokens": max_new_tokens, "processors": processors}
    with _packed_weights(model, 1):
        return [
            generate(model, tokenizer, [messages], **asked)[0].seconds
            for messages in conversations[: 1 if runtime.fast() else None]
        ]


def house_grammar(tokenizer, schema: dict, text_tokens: int = 44):
    """For ``generate(processors=...)``: only tokens that can still lead to JSON of this schema may be chosen.

    The grammar engine is ``llguidance``; a mask over the vocabulary is computed for each row at each step, and
    forbidden tokens get a logit of minus infinity. Keys come in the order of ``required``, all but the last with
    a label; the last is free text of at most 30 words and about ``text_tokens`` tokens, then the sign-off: forbidding tokens alone never makes a model stop. Introduced in lesson 01, section 1.7.
    """
    import json

    import llguidance.hf
    import llguidance.torch
    from llguidance import LLMatcher
    from transformers import LogitsProcessor, LogitsProcessorList

    engine = llguidance.hf.from_tokenizer(tokenizer)
    *labels, last = schema["required"]
    rule = ["{"]
    for key in labels:
        rule[-1] = json.dumps(f'{rule[-1]}"{key}": ')
        rule += [f"%json {json.dumps(schema['properties'][key])}", ", "]
    rule[-1:] = [json.dumps(f'{rule[-1]}"{last}": "'), "text", "END"]
    # each word ends with a blank and none begins with a hyphen, so the words cannot swallow the sign-off;
    # where the limit cuts a word off, the blank before the sign-off is still to come
    word = r'[^\s\\"{}\x00-\x1f-][^\s\\"{}\x00-\x1f]{0,15} '
    text = f"text[max_tokens={text_tokens}]: /({word}){{1,{MAX_WORDS}}}/"
    end = f'END: / ?{SIGN_OFF.lstrip()}"\\}}/'
    grammar = LLMatcher.grammar_from_lark(f"start: {' '.join(rule)}\n{text}\n{end}")

    class Grammar(LogitsProcessor):
        def __init__(self, prompt_width: int, rows: int):
            self.width, self.matchers = (
                prompt_width,
                [LLMatcher(engine, grammar) for _ in range(rows)],
            )
            self.bitmask = llguidance.torch.allocate_token_bitmask(rows, engine.vocab_size)

        def keep(self, places: list[int]) -> None:
            self.matchers = [self.matchers[place] for place in places]
            self.bitmask = self.bitmask[places].contiguous()

        def __call__(self, input_ids, scores):
            for row, matcher in enumerate(self.matchers):
                if input_ids.shape[1] > self.width and not matcher.is_stopped():
                    matcher.consume_token(int(input_ids[row, -1]))
                llguidance.torch.fill_next_token_bitmask(matcher, self.bitmask, row)
            known, bitmask = (
                min(engine.vocab_size, scores.shape[-1]),
                self.bitmask.to(scores.device),
            )
            llguidance.torch.apply_token_bitmask_inplace(scores[:, :known], bitmask)
            return scores

    return lambda prompt_width, rows: LogitsProcessorList([Grammar(prompt_width, len(rows))])
