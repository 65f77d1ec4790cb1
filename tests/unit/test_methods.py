import shutil

import pytest

from helpers import data, evaluation, generation, methods, models, rules, runtime, training

PROFILE = runtime.Profile("cpu", runtime.EMBEDDED, "float32", False, "cpu", "test")
ROWS = data.tickets("validation")[:3]


def test_examples_are_training_rows_with_an_outside_one_among_the_first_four():
    chosen = methods.examples(4)
    assert len(methods.examples(8)) == len(set(methods.EXAMPLE_IDS)) == 8
    assert any(row["reply"]["policy"] == "none" for row in chosen)


@pytest.mark.parametrize("name", list(methods.METHODS))
def test_every_method_asks_its_ticket_last(name):
    for row, messages in zip(ROWS, methods.conversations(methods.METHODS[name], ROWS)):
        assert messages[0]["role"] == "system"
        assert messages[-1]["role"] == "user" and messages[-1]["content"].endswith(row["ticket"])


def test_only_retrieving_methods_show_the_handbook():
    for method in methods.METHODS.values():
        shown = "Handbook:" in methods.conversations(method, ROWS)[0][-1]["content"]
        assert shown == bool(method.sections)


def test_training_rows_are_asked_in_the_same_words_as_the_tuned_methods():
    for name in ("sft", "sft-rag"):
        method = methods.METHODS[name]
        trained = methods.training_rows(method.sections, "validation")[:3]
        assert [row["prompt"] for row in trained] == methods.conversations(method, ROWS)


def test_a_part_of_the_training_contexts_misses_the_right_section():
    rows, made = data.tickets("train"), methods.training_rows(methods.SECTIONS_K)
    inside = [(r, m) for r, m in zip(rows, made) if r["asks"]]
    missed = [f"[{r['reply']['policy']}]" not in m["prompt"][-1]["content"] for r, m in inside]
    assert 0.02 < sum(missed) / len(missed) < 0.2


def test_answers_are_kept_and_read_again_without_a_model(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKSHOP_RUNS", str(tmp_path))
    calls = []

    def fake(model, tokenizer, asked, *args, **kwargs):
        calls.append(len(asked))
        return [generation.Reply("x", 1, 1, 0.1) for _ in asked]

    class Model:
        def generate(self):
            """Marks this as a loaded model."""

    monkeypatch.setattr(methods, "generate", fake)
    first = methods.answer("zero-shot", ROWS, Model(), None, PROFILE)
    again = methods.answer("zero-shot", ROWS, lambda: pytest.fail("loaded a model"), None, PROFILE)
    assert first == again and calls == [3]
    methods.answer("zero-shot", ROWS[:2], Model(), None, PROFILE)
    assert calls == [3, 2]
    assert not list(tmp_path.rglob("*.part"))
    shutil.rmtree(tmp_path)  # the folder may go at any time, in the middle of a lesson, too
    assert methods.answer("zero-shot", ROWS[:2], Model(), None, PROFILE) == again[:2]
    assert training.find_adapter("sft", PROFILE)[1] == "ready-made"


def test_the_keyword_rule_always_writes_a_house_reply():
    for row in data.tickets("validation"):
        assert evaluation.parse_reply(rules.keyword_rule(row["ticket"])) is not None


def test_pasting_says_what_quoting_says_and_more_in_a_house_reply():
    for row in data.tickets("validation"):
        policy, ticket = row["reply"]["policy"], row["ticket"]
        reply = rules.house_reply(policy, ticket, rules.paste)
        assert evaluation.in_house_form(evaluation.parse_reply(reply))
        if policy != "none":
            assert rules.paste(policy, ticket).startswith(rules.quote(policy, ticket))


def test_the_keyword_rule_has_words_for_every_section():
    assert list(rules.KEYWORDS) == list(data.policies())


@pytest.mark.parametrize("name", ["sft", "sft-rag"])
def test_a_ready_made_adapter_is_there_and_small(name, monkeypatch, tmp_path):
    monkeypatch.setenv("WORKSHOP_RUNS", str(tmp_path))
    folder, origin = training.find_adapter(name, PROFILE)
    assert origin == "ready-made"
    assert models.folder_mb(folder) <= 10


def test_tokens_come_with_an_interval_over_the_tickets():
    replies = [generation.Reply("x", read, 5, 0.1) for read in (10, 20, 30, 40)]
    prices = methods.token_prices(replies)
    assert prices["prompt_tokens"] == 25 and prices["new_tokens"] == 5
    low, high = prices["intervals"]["prompt_tokens"]
    assert 10 <= low < 25 < high <= 40 and prices["intervals"]["new_tokens"] == (5, 5)


def test_a_method_without_a_model_has_no_tokens_and_one_ticket_no_interval():
    none = methods.token_prices([generation.Reply("x", 0, 0, 0.0)] * 3)
    assert none == {"prompt_tokens": None, "new_tokens": None, "intervals": {}}
    one = methods.token_prices([generation.Reply("x", 7, 5, 0.1)])
    assert one == {"prompt_tokens": 7, "new_tokens": 5, "intervals": {}}


def test_the_median_of_a_few_requests_comes_with_its_interval(monkeypatch):
    monkeypatch.setattr(methods, "latency", lambda *_: [1.0, 2.0, 3.0])
    price = methods.measure_latency("zero-shot", ROWS, None, None, n=3)
    low, high = price["intervals"]["latency_p50_s"]
    assert price["latency_p50_s"] == 2 and 1 <= low <= 2 <= high <= 3
    monkeypatch.setattr(methods, "latency", lambda *_: [1.0])
    assert methods.measure_latency("zero-shot", ROWS, None, None)["intervals"] == {}


def test_a_request_is_timed_with_the_grammar_of_its_method(monkeypatch):
    monkeypatch.setattr(methods, "house_grammar", lambda *_: "a grammar")
    told = []
    monkeypatch.setattr(methods, "latency", lambda *asked: told.append(asked[-1]) or [1.0])
    for name in ("few-shot", "few-shot-constrained"):
        methods.measure_latency(name, ROWS, None, None, n=1)
    assert told == [None, "a grammar"]
