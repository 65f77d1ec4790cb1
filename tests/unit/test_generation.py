from types import SimpleNamespace

import pytest
import torch

from helpers import data, evaluation, generation, models, runtime


@pytest.fixture(scope="module")
def tokenizer():
    return models.load_tokenizer(
        runtime.Profile("cpu", runtime.EMBEDDED, "float32", False, "cpu", "test")
    )


@pytest.fixture(scope="module")
def tiny(tokenizer, tiny_llama):
    """Fast, and unforgiving about masks and positions."""
    return tiny_llama(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,  # at the usual 0.02 attention is nearly even, wherever a token stands
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    ).eval()


def ask(*texts: str) -> list[list[dict]]:
    system = (
        "You answer for a shop that sells bikes of many kinds, and you do it in a single sentence."
    )
    return [data.messages(text, system) for text in texts]


QUESTIONS = ask(
    "How long?",
    "My bike was delivered on Monday and it rattles, what now?",
    "Where is it",
    "Price of a tube?",
)


def one_by_one(tiny, tokenizer, conversations):
    plain = []
    for messages in conversations:
        ids = torch.tensor([generation.encode(tokenizer, messages)])
        out = tiny.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
        )
        plain.append(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip())
    return plain


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_batches_without_a_shared_prefix_write_what_one_by_one_writes(
    tiny, tokenizer, monkeypatch, batch_size
):
    monkeypatch.setattr(generation, "PREFILL_ROWS", 2)  # parts of a batch have widths of their own
    asked = [
        data.messages("How long?", system) for system in ("Be brief.", "You sell bikes.", "Hm")
    ]
    asked += [[{"role": "user", "content": "Where is my bike, and who has it now?"}]]
    assert generation.shared_prefix([generation.encode(tokenizer, m) for m in asked]) < 16
    ours = generation.generate(tiny, tokenizer, asked, max_new_tokens=12, batch_size=batch_size)
    assert [reply.text for reply in ours] == one_by_one(tiny, tokenizer, asked)
    assert tiny.config._attn_implementation != "shared_prefix"
    assert not tiny.get_output_embeddings()._forward_pre_hooks


@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_batches_with_a_shared_prefix_write_what_one_by_one_writes(
    tiny, tokenizer, monkeypatch, batch_size, merged
):
    monkeypatch.setattr(generation, "PREFILL_ROWS", 2)
    merging, merge = [], generation._merged
    monkeypatch.setattr(generation, "_can_merge", lambda: merged)
    monkeypatch.setattr(generation, "_merged", lambda *x: merging.append(len(x[0])) or merge(*x))
    plain = one_by_one(tiny, tokenizer, QUESTIONS)
    assert generation.shared_prefix([generation.encode(tokenizer, m) for m in QUESTIONS]) >= 16
    ours = generation.generate(tiny, tokenizer, QUESTIONS, max_new_tokens=12, batch_size=batch_size)
    assert [reply.text for reply in ours] == plain
    assert bool(merging) is merged and all(rows <= 2 for rows in merging)


def test_the_pinned_torch_can_merge_and_one_whose_heads_do_not_group_cannot(monkeypatch):
    generation._can_merge.cache_clear()
    if torch.__version__.startswith("2.13"):
        assert generation._can_merge()
    generation._can_merge.cache_clear()
    wrong = SimpleNamespace(_scaled_dot_product_flash_attention_for_cpu=lambda q, *_, **__: (q, q))
    monkeypatch.setattr(torch.ops, "aten", wrong)
    assert not generation._can_merge()
    generation._can_merge.cache_clear()
    monkeypatch.setattr(torch.ops, "aten", SimpleNamespace())
    assert not generation._can_merge()
    generation._can_merge.cache_clear()


def test_each_part_is_padded_to_its_own_longest_only(tiny, tokenizer, monkeypatch):
    monkeypatch.setattr(generation, "PREFILL_ROWS", 2)
    widths, forward = [], tiny.forward

    def seen(*args, **kwargs):
        ids = kwargs.get("input_ids", args[0] if args else None)
        widths.append(ids.shape[1])
        return forward(*args, **kwargs)

    monkeypatch.setattr(tiny, "forward", seen)
    generation.generate(tiny, tokenizer, QUESTIONS, max_new_tokens=1)
    lengths = sorted(len(generation.encode(tokenizer, messages)) for messages in QUESTIONS)
    prefix = generation.shared_prefix([generation.encode(tokenizer, m) for m in QUESTIONS])
    assert widths == [prefix, lengths[1] - prefix, lengths[3] - prefix]
    assert lengths[1] < lengths[3]


@pytest.mark.skipif(not generation._can_merge(), reason="this torch keeps the weights to itself")
@pytest.mark.parametrize("dtype, near", [(torch.float32, 1e-6), (torch.bfloat16, 0.02)])
def test_attention_merged_from_prefix_and_own_tokens_is_that_over_both(dtype, near):
    torch.manual_seed(0)
    rows, heads, groups, new, dim, length = 3, 6, 2, 5, 16, 20
    query = torch.randn(rows, heads, new, dim, dtype=dtype)
    key, value = torch.randn(2, rows, groups, new, dim, dtype=dtype)
    prefix = SimpleNamespace(keys=None, values=None)
    prefix.keys, prefix.values = torch.randn(2, 1, groups, length, dim, dtype=dtype)
    seen = torch.ones(rows, 1, new, new, dtype=torch.bool).tril()
    seen[1, ..., :2] = False  # padded on the left
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
    merged = generation._merged(query, key, value, prefix, mask, 0.3)
    assert merged.isfinite().all()  # what a padding computes is never read, but times zero is read
    whole = torch.nn.functional.scaled_dot_product_attention(
        query,
        torch.cat([prefix.keys.expand(rows, -1, -1, -1), key], -2),
        torch.cat([prefix.values.expand(rows, -1, -1, -1), value], -2),
        torch.cat([mask.new_zeros(rows, 1, new, length), mask], -1),
        scale=0.3,
        enable_gqa=True,
    )
    assert (merged - whole.transpose(1, 2)).abs().max() < near


@pytest.mark.parametrize("shared", [False, True])
def test_rows_that_end_leave_the_batch_and_change_no_other(tiny, tokenizer, monkeypatch, shared):
    from transformers import DynamicCache

    monkeypatch.setattr(generation, "ROOM", 3)  # so that it grows, too, before and after rows leave
    prompts = [generation.encode(tokenizer, messages) for messages in QUESTIONS]
    prefix, new_cache = 0, generation._cache_maker(tiny)
    if shared:
        prefix = generation.shared_prefix(prompts)
        ids = torch.tensor([prompts[0][:prefix]])
        with torch.inference_mode():
            read = tiny(ids, past_key_values=DynamicCache(), use_cache=True).past_key_values
        new_cache = generation._cache_maker(tiny, read)

    def write(prompts, end):
        width = max(map(len, prompts))
        rows = [
            (
                p[:prefix] + [0] * (width - len(p)) + p[prefix:],
                [1] * prefix + [0] * (width - len(p)) + [1] * (len(p) - prefix),
            )
            for p in prompts
        ]
        ids, mask = (torch.tensor(column) for column in zip(*rows))
        plain = tiny.config._attn_implementation
        tiny.set_attn_implementation("shared_prefix" if shared else plain)
        with torch.inference_mode():
            written = generation._write(
                *(tiny, ids, mask, new_cache, prefix, 16, end, lambda scores: scores.argmax(-1)),
                None,
            )
        tiny.set_attn_implementation(plain)
        return written

    free = [write([prompt], end=-1)[0] for prompt in prompts]
    assert [len(tokens) for tokens in free] == [16] * len(prompts)
    # an end that falls on different steps, and never in some row
    end = next(t for tokens in free for t in tokens[2:9] if not all(t in other for other in free))
    cut = [tokens[: tokens.index(end) + 1] if end in tokens else tokens for tokens in free]
    assert len({len(tokens) for tokens in cut}) > 1
    assert write(prompts, end) == cut


@pytest.mark.skipif(not generation._can_pack(), reason="no bf16 products by oneDNN here")
def test_weights_laid_out_once_multiply_as_the_plain_ones_do(tiny_llama):
    model = tiny_llama(vocab_size=256, hidden_size=128, intermediate_size=256).eval().bfloat16()
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    ids = torch.arange(40).view(2, 20)

    def packed() -> list[bool]:
        return ["forward" in vars(module) for module in linear]

    with torch.inference_mode():
        plain = model(ids).logits
        with pytest.raises(KeyError), generation._packed_weights(model, 2):
            assert sum(packed()) > len(linear) / 2
            assert torch.allclose(model(ids).logits, plain, atol=0.02)
            with generation._packed_weights(model, 1):
                pass
            assert sum(packed()) > len(linear) / 2  # the inner one leaves what the outer one made
            raise KeyError("what happens inside")
    assert not any(packed())


def test_where_torch_cannot_lay_weights_out_nothing_changes(tiny_llama, monkeypatch):
    monkeypatch.setattr(generation, "_can_pack", lambda: False)
    model = tiny_llama(vocab_size=256, hidden_size=128, intermediate_size=256).bfloat16()
    with generation._packed_weights(model, 2):
        assert not any("forward" in vars(module) for module in model.modules())


def test_float32_is_not_laid_out_anew(tiny_llama):
    model = tiny_llama(vocab_size=256, hidden_size=128, intermediate_size=256)
    with generation._packed_weights(model, 2):
        assert not any("forward" in vars(module) for module in model.modules())


def test_replies_come_in_the_order_of_the_questions(tiny, tokenizer):
    replies = generation.generate(tiny, tokenizer, QUESTIONS, max_new_tokens=2)
    assert [r.prompt_tokens for r in replies] == [
        len(generation.encode(tokenizer, m)) for m in QUESTIONS
    ]


def test_no_question_gives_no_reply(tiny, tokenizer):
    assert generation.generate(tiny, tokenizer, []) == []


def test_identical_questions_share_all_but_one_token(tiny, tokenizer):
    replies = generation.generate(tiny, tokenizer, [QUESTIONS[0]] * 3, max_new_tokens=6)
    assert len({reply.text for reply in replies}) == 1


def test_a_prompt_beyond_the_window_is_refused_with_its_numbers(tiny, tokenizer):
    with pytest.raises(ValueError, match="window of 512"):
        generation.generate(tiny, tokenizer, ask("word " * 600), max_new_tokens=8)


def test_sampling_with_a_seed_repeats(tiny, tokenizer):
    texts = []
    for _ in range(2):
        runtime.set_seed(3)
        replies = generation.generate(tiny, tokenizer, QUESTIONS, max_new_tokens=8, temperature=1.0)
        texts.append([reply.text for reply in replies])
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("prompts", "shared"),
    [([[1, 2, 3], [1, 2, 4]], 2), ([[1, 2], [1, 2]], 1), ([[1], [2]], 0), ([[5, 6, 7], [5]], 0)],
)
def test_shared_prefix_leaves_a_token_to_each(prompts, shared):
    assert generation.shared_prefix(prompts) == shared


def test_a_grammar_gives_form_even_to_a_model_that_knows_nothing(tiny, tokenizer):
    grammar = generation.house_grammar(tokenizer, data.reply_schema())
    replies = generation.generate(
        tiny, tokenizer, QUESTIONS[:2], max_new_tokens=160, processors=grammar
    )
    for reply in replies:
        starts = reply.text.startswith('{"policy": "')
        assert starts and (
            evaluation.parse_reply(reply.text) is not None or reply.new_tokens == 160
        )


@pytest.mark.parametrize("number", range(0, 240, 40))
def test_the_grammar_lets_a_right_reply_through_and_nothing_after_it(number, tokenizer):
    text = data.dumps(data.tickets("validation")[number]["reply"])
    (mask,) = generation.house_grammar(tokenizer, data.reply_schema())(0, [0])
    written = tokenizer(text, add_special_tokens=False)["input_ids"]
    for i in range(len(written) + 1):
        scores = mask(torch.tensor([written[:i]], dtype=torch.long), torch.zeros(1, len(tokenizer)))
        allowed = torch.isfinite(scores[0]).nonzero().flatten().tolist()
        assert i == len(written) or written[i] in allowed, tokenizer.decode(written[: i + 1])
    assert all(not tokenizer.decode([token], skip_special_tokens=True).strip() for token in allowed)
