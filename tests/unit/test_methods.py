import random
import re

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


def test_the_keyword_rule_always_writes_a_house_reply():
    for row in data.tickets("validation"):
        assert evaluation.parse_reply(rules.keyword_rule(row["ticket"])) is not None


def test_the_keyword_rule_has_words_for_every_section():
    assert list(rules.KEYWORDS) == list(data.policies())


@pytest.mark.parametrize("name", ["sft", "sft-rag"])
def test_a_ready_made_adapter_is_there_and_small(name):
    folder, origin = training.find_adapter(name, PROFILE, trained=False)
    assert origin == "ready-made"
    assert models.folder_mb(folder) <= 10


def test_other_figures_change_page_and_reply_alike():
    page = data.policies()["RET-4"]
    ticket = "We are a firm. What do you charge to take our bikes back, and until when?"
    reply = "Within 7 days, for a restocking charge of 12 %. - Bramble desk"
    for seed in range(20):
        other, said = methods.with_other_figures(page, ticket, reply, random.Random(seed))
        days = re.search(r"within (\d+) days", other.text)
        charge = re.search(r"(\d+) %", other.text)
        assert (days[1], charge[1]) != ("7", "12")
        assert f"{days[1]} days" in said and f"{charge[1]} %" in said
        assert other.policy == page.policy and re.sub(r"\d+", "", other.text) == re.sub(
            r"\d+", "", page.text
        )


def test_other_figures_leave_what_the_ticket_names_and_phone_numbers():
    page = data.policies()["REN-6"]
    reply = "Please call us on 0800 555 0119. - Bramble desk"
    _, said = methods.with_other_figures(page, "broke down", reply, random.Random(0))
    assert said == reply
    page = data.policies()["RET-4"]
    other, _ = methods.with_other_figures(page, "is it 7 days?", "x", random.Random(0))
    assert "7 days" in other.text and "12 %" not in other.text


def test_rows_with_other_figures_differ_only_in_digits():
    plain = methods.training_rows(methods.SECTIONS_K, other_figures=0.0)
    changed = methods.training_rows(methods.SECTIONS_K, other_figures=1.0)
    different = 0
    for a, b in zip(plain, changed):
        texts = [(row["prompt"][-1]["content"], row["completion"][0]["content"]) for row in (a, b)]
        different += texts[0] != texts[1]
        assert [re.sub(r"[\d.,:]", "", part) for part in texts[0]] == [
            re.sub(r"[\d.,:]", "", part) for part in texts[1]
        ]
    assert different > len(plain) / 2
