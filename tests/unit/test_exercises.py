import json
import math
import multiprocessing
import re
import shutil
from types import SimpleNamespace

import pytest

from helpers import data, exercises, memory, models, runtime, statistics
from helpers.exercises import (
    core,
    lesson_00,
    lesson_01,
    lesson_03,
    lesson_04,
    lesson_06,
    lesson_07,
)

ALL = {e.id: e for lesson in core.LESSONS for e in core._exercises(lesson)}


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKSHOP_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(core, "_given", {})
    return tmp_path / "runs"


@pytest.fixture(scope="session")
def tokenizer():
    laptop = runtime.Machine("laptop", cores=2, memory_gb=8, fast_bf16=False)
    return models.load_tokenizer(runtime.choose_profile(laptop, env={}))


def replying(*texts):
    """A way to generate that always writes these texts, in turn."""

    def generate(conversations):
        chosen = [texts[i % len(texts)] for i in range(len(conversations))]
        return [SimpleNamespace(text=text, prompt_tokens=100) for text in chosen]

    return generate


GOOD = data.dumps(lesson_00.TICKET["reply"])


@pytest.fixture
def given(tokenizer):
    """What a check needs beside the answer."""
    return {"E1.1": {"generate": replying(GOOD)}, "E3.2": {"tokenizer": tokenizer}}


@pytest.mark.parametrize("name", ALL)
def test_our_solution_passes_and_is_returned(name, given, capsys):
    ours = ALL[name].ours
    assert exercises.check(name, ours, **given.get(name, {})) is ours
    assert f"{name} done: " in capsys.readouterr().out


def changed(name, **changes):
    return ALL[name].ours | changes


def wald(right, n, rival):
    share = right / n if n else 0.0
    return share - 1.96 * (share * (1 - share) / n if n else 0.0) ** 0.5 > rival


def raw_leaks(train, test):
    def cut(text):
        return frozenset(text.lower()[i : i + 5] for i in range(len(text) - 4))

    return {
        a["id"]
        for a in train
        if max(data.jaccard(cut(a["ticket"]), cut(b["ticket"])) for b in test) > 0.5
    }


def alike_above(limit):
    def mine(train, test):
        return {
            a["id"]
            for a in train
            if any(
                data.jaccard(data.shingles(a["ticket"]), data.shingles(b["ticket"])) > limit
                for b in test
            )
        }

    return mine


def masked_equal(train, test):
    masked = {data.masked(row["ticket"]) for row in test}
    return {row["id"] for row in train if data.masked(row["ticket"]) in masked}


def labels_where(rule):
    """A mask that grades the tokens for which ``rule(turn, role, part)`` holds."""

    def mine(tokenizer, messages):
        ids = tokenizer.apply_chat_template(messages)["input_ids"]
        parts = lesson_03._parts(tokenizer, list(ids))
        return [token if rule(*part) else -100 for token, part in zip(ids, parts)]

    return mine


def shifted(tokenizer, messages):
    labels = lesson_03.mask(tokenizer, messages)
    return [*labels[1:], -100]


def zero_and_one(tokenizer, messages):
    return [int(label != -100) for label in lesson_03.mask(tokenizer, messages)]


def one_late(tokenizer, messages):
    labels = lesson_03.mask(tokenizer, messages)
    before = [-100, *labels[:-1]]
    return [-100 if was == -100 else label for was, label in zip(before, labels)]


def stale_if(rule):
    return lambda messages, values: [i for i, m in enumerate(messages) if rule(m, values)]


def holds(text, values):
    return any(re.search(rf"(?<!\w){re.escape(v)}(?!\w)", text) for v in values)


def overlap(a, b, questions):
    (_, low), (high, _) = statistics.wilson(sum(b), len(b)), statistics.wilson(sum(a), len(a))
    return low < high


def asked(*messages):
    return lambda ticket: [*messages, {"role": "user", "content": f"Ticket: {ticket}"}]


def leaking_examples(ticket):
    return data.messages(ticket, "Answer.", data.tickets("validation")[:1])


def _mended(**changes):
    """Ours, with some of what it returns replaced for the run that never stops."""
    return lambda run: lesson_04.mend(run) | (changes if run["max_length"] == 128 else {})


def fit(**changes):
    return changed("E6.1", **changes)


def parts_of_full(*names):
    need = memory.estimate(memory.SHAPES["Llama-3.2-3B"], **lesson_06.FULL)
    return round(sum(getattr(need, name) for name in names) / 1e9, 1)


def backward_of_full():
    need = memory.estimate(memory.SHAPES["Llama-3.2-3B"], **lesson_06.FULL)
    return round(need.moments()["backward begins"] / 1e9, 1)


def share(line):
    return line["validation"]["resolved"]["value"]


def gap_beyond(seeds_say):
    return lambda a, b, seeds: abs(share(b) - share(a)) > seeds_say([share(s) for s in seeds])


def spread(values):
    return max(values) - min(values)


def tickets_say(a, b, seeds):
    flags = ([c == "1" for c in line["validation"]["tickets"]] for line in (a, b))
    return statistics.mcnemar(*flags)["p"] < 0.05


def paid(rule):
    """A break-even whose saving is ``rule(read, wrote, price_in, price_out)``."""

    def mine(training, trainings, tuned, untuned, price_in, price_out):
        read = untuned["prompt_tokens"] - tuned["prompt_tokens"]
        wrote = untuned["new_tokens"] - tuned["new_tokens"]
        return rule(
            training, trainings, (read * price_in + wrote * price_out) / 1e6, read * price_in
        )

    return mine


def up(value):
    return math.ceil(value) if value >= 0 else value


WRONG = [
    ("E0.1", lambda right, n, rival: n > 0 and right / n > rival, "the share alone"),
    ("E0.1", lambda right, n, rival: statistics.wilson(right, n)[1] > rival, "needs the low end"),
    ("E0.1", wald, "has no width"),
    ("E0.1", lambda right, n, rival: False, "does beat 25 %"),
    ("E0.2", changed("E0.2", A="facts"), "the wording is free"),
    ("E0.2", changed("E0.2", B="resolved"), "never from the tone"),
    ("E0.2", changed("E0.2", C="resolved"), "stands beside the right one"),
    ("E0.2", changed("E0.2", E="resolved"), "sign-off is missing"),
    ("E0.2", changed("E0.2", A="fine"), "'fine' for reply A is none of"),
    ("E1.1", lambda ticket: f"Answer: {ticket}", "a list of messages is expected"),
    ("E1.1", lambda ticket: data.messages("another ticket"), "it is never asked"),
    ("E1.1", leaking_examples, "stands in your examples"),
    ("E1.1", asked({"role": "bot", "content": "hi"}), "'bot'] does not exist"),
    ("E1.2", changed("E1.2", parses=False), "every reply is one JSON object"),
    ("E1.2", {**ALL["E1.2"].ours, "figure is true": True}, "900 days"),
    ("E1.2", {**ALL["E1.2"].ours, "labels agree": True}, '"intent": "battery"'),
    ("E1.2", {**ALL["E1.2"].ours, "passes on": True}, "purple"),
    ("E2.1", lambda table: max(table, key=lambda r: r["found"])["k"], "recall is a bound"),
    ("E2.1", lambda table: max(table, key=lambda r: r["resolved"])["k"], "within chance"),
    ("E2.1", lambda table: 1, "leaves out too many"),
    ("E2.1", lambda table: 7, "returned 7"),
    (
        "E2.2",
        stale_if(lambda m, v: m["role"] == "user" and holds(m["content"], v)),
        "system prompt",
    ),
    (
        "E2.2",
        stale_if(lambda m, v: m["role"] != "assistant" and holds(m["content"], v)),
        "copies it",
    ),
    ("E2.2", stale_if(lambda m, v: any(old in m["content"] for old in v)), "whole values"),
    ("E2.2", stale_if(lambda m, v: holds(m["content"], v)), "customer's own words"),
    ("E2.2", lambda messages, values: [0, 2], "old index"),
    (
        "E3.1",
        lambda a, b: {r["id"] for r in a if r["ticket"] in {x["ticket"] for x in b}},
        "another p",
    ),
    ("E3.1", masked_equal, "words changed places"),
    ("E3.1", raw_leaks, "hide how alike"),
    ("E3.1", alike_above(0.3), "throws out what the model has to learn"),
    ("E3.1", lambda train, test: [row["id"] for row in test], "no ids of training rows"),
    ("E3.1", lambda train, test: set(), "letter by letter"),
    ("E3.2", labels_where(lambda turn, role, part: part in ("text", "end")), "the system's turn 0"),
    ("E3.2", labels_where(lambda t, r, p: r == "user" and p == "text"), "learn to write tickets"),
    ("E3.2", labels_where(lambda t, r, p: r == "assistant"), "the opening of turn 2"),
    ("E3.2", labels_where(lambda t, r, p: r == "assistant" and p == "text"), "never closed"),
    ("E3.2", labels_where(lambda t, r, p: t == 4 and p in ("text", "end")), "only the last answer"),
    ("E3.2", labels_where(lambda *_: False), "no token is graded"),
    ("E3.2", shifted, "shifts labels by itself"),
    ("E3.2", zero_and_one, "a mask of 0 and 1"),
    ("E3.2", one_late, "of an answer carries no label"),
    ("E3.2", lambda tokenizer, messages: [1, 2], "2 labels for"),
    *(
        (e.id, cause, lesson_04._SIGNS[cause])
        for e in core._exercises(4)[:4]
        for cause in lesson_04.CAUSES
        if cause != e.ours
    ),
    ("E4.1", "bad luck", "is no cause of the list"),
    ("E4.5", lambda run: {}, "nothing was changed that matters"),
    ("E4.5", _mended(max_new_tokens=512), "does not teach it to stop"),
    ("E4.5", _mended(learning_rate=1e-3), "the rate is in order"),
    ("E4.5", _mended(max_length=192), "still cuts the longest row"),
    (
        "E4.5",
        lambda run: lesson_04.mend(run) if run["max_length"] == 128 else {"epochs": 10},
        "not at their number",
    ),
    (
        "E4.5",
        lambda run: (
            {"learning_rate": run["learning_rate"] / 2}
            if run["loss"][-1] > 5
            else lesson_04.mend(run)
        ),
        "still far too high",
    ),
    ("E4.5", lambda run: lesson_04.mend(run) and {"rank": 8}, "is no setting"),
    ("E5.1", changed("E5.1", monday="sft-rag, 5 sections"), "within chance"),
    ("E5.1", changed("E5.1", monday="sft-rag, new prompt"), "tried on 20 tickets"),
    ("E5.1", changed("E5.1", monday="sft"), "cannot do"),
    ("E5.1", changed("E5.1", instant="sft-rag"), "0.1 s are allowed"),
    ("E5.1", changed("E5.1", instant="keyword-rule"), "nobody reads along"),
    ("E5.1", changed("E5.1", sealed="keyword-rule"), "another row that fits does better"),
    ("E5.1", changed("E5.1", sealed="gpt"), "no method of the board"),
    ("E5.2", lambda a, b, questions: sum(a) > sum(b), "fair coin"),
    ("E5.2", overlap, "their intervals overlap"),
    ("E5.2", lambda a, b, q: statistics.mcnemar(a, b)["p"] < 0.05 / q, "b is the better one"),
    (
        "E5.2",
        lambda a, b, q: sum(a) > sum(b) and statistics.mcnemar(a, b)["p"] < 0.05,
        "divide 0.05",
    ),
    ("E6.1", fit(GB=parts_of_full("weights")), "a step holds more than the model"),
    ("E6.1", fit(GB=parts_of_full("weights", "gradients")), "the optimiser is missing"),
    ("E6.1", fit(GB=parts_of_full("weights", "optimizer")), "the gradients are missing"),
    ("E6.1", fit(GB=parts_of_full("weights", "optimizer", "gradients")), "scratch space"),
    ("E6.1", fit(GB=backward_of_full()), "the beginning of the backward pass"),
    ("E6.1", fit(GB=3.0), "is not the peak"),
    ("E6.1", fit(fits=True), "on a card of 24 GB, and it fits?"),
    ("E6.1", fit(change={"rank": 1}), "The largest part is activations"),
    ("E6.1", fit(change={"optimizer": "adamw_8bit"}), "still takes 22.9 GB"),
    ("E6.1", fit(change={"adapter_width": 2}), "still takes 16.1 GB"),
    ("E6.1", fit(change={"batch": 1}), "a smaller batch is another run"),
    ("E6.1", fit(change={"checkpointing": True, "rank": 8}), "one setting is expected"),
    ("E6.1", {"GB": 32.1, "fits": False}, "the key 'change' is missing"),
    ("E6.2", lambda a, b, seeds: share(b) != share(a), "two seeds of one setting"),
    ("E6.2", lambda a, b, seeds: share(b) > share(a), "a loss is a difference, too"),
    ("E6.2", lambda *_: False, "both doubts are answered"),
    ("E6.2", tickets_say, "another seed moves the share further"),
    ("E6.2", gap_beyond(spread), "a fair coin splits"),
    (
        "E6.2",
        lambda a, b, seeds: tickets_say(a, b, seeds) and gap_beyond(spread)(a, b, seeds),
        "unknown, not zero",
    ),
    ("E7.1", paid(lambda t, times, saved, _: up(times * t / (1e6 * saved))), "for a million"),
    ("E7.1", paid(lambda t, times, saved, read: up(times * t / read * 1e6)), "written tokens"),
    ("E7.1", paid(lambda t, times, saved, _: up(t / saved)), "more than once"),
    ("E7.1", paid(lambda t, times, saved, _: int(times * t / saved)), "not paid yet; round up"),
    ("E7.1", paid(lambda t, times, saved, _: up(times * t / saved)), "the dearer one"),
    (
        "E7.1",
        paid(lambda t, times, saved, _: up(times * t / saved) if saved > 0 else saved and math.inf),
        "nothing is saved",
    ),
    *(
        ("E7.2", {**ALL["E7.2"].ours, case: pick}, f"{cause[0].upper()}{cause[1:]}.")
        for (case, pick), (cause, _) in lesson_07._OVERLOOKS.items()
    ),
    ("E7.2", changed("E7.2", desk="rag"), "'rag' is no choice"),
]


@pytest.mark.parametrize(("name", "answer", "cause"), WRONG)
def test_a_wrong_answer_is_told_its_cause_and_ours_is_returned(name, answer, cause, given, capsys):
    assert exercises.check(name, answer, **given.get(name, {})) is ALL[name].ours
    said = capsys.readouterr().out
    assert f"{name} not yet: " in said and cause in said
    assert not core.progress_path().exists()


def test_every_exercise_has_three_wrong_answers_with_three_messages():
    for name in ALL:
        assert len({cause for wrong, _, cause in WRONG if wrong == name}) >= 3, name


def test_every_lesson_has_two_exercises_with_ids_of_its_own_and_three_hints():
    for lesson in core.LESSONS:
        mine = core._exercises(lesson)
        assert len(mine) >= 2
        assert [e.id for e in mine] == [f"E{lesson}.{i}" for i in range(1, len(mine) + 1)]
        assert all(len(e.hints) == 3 == len(set(e.hints)) for e in mine)


@pytest.mark.parametrize("name", ALL)
def test_an_empty_stub_is_told_what_is_missing_and_runs_nothing(name, capsys):
    def stub(*arguments):
        return None

    empty = [None, ..., {"A": None}] + ([stub] if callable(ALL[name].ours) else [])
    needs = {"E1.1": {"generate": None}, "E3.2": {"tokenizer": CountsTokens()}}
    for answer in empty:
        assert exercises.check(name, answer, **needs.get(name, {})) is ALL[name].ours
        said = capsys.readouterr().out
        assert f"{name} is still empty: write {ALL[name].expects}" in said
    assert not core.progress_path().exists()


class CountsTokens:
    def apply_chat_template(self, messages):
        return {"input_ids": [1, 2, 3]}


def test_an_error_in_the_learners_function_shows_the_line_and_no_traceback(capsys):
    def broken(right, n, rival):
        share = right / (n - n)
        return share > rival

    assert exercises.check("E0.1", broken) is lesson_00.beats
    said = capsys.readouterr().out
    assert "'share = right / (n - n)'" in said and "ZeroDivisionError: division by zero" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("answer", [lambda: True, "a text", 7, [], {"k": 1}, object()])
@pytest.mark.parametrize("name", ALL)
def test_no_answer_of_another_shape_ends_in_a_traceback(name, answer, given, capsys):
    assert exercises.check(name, answer, **given.get(name, {})) is ALL[name].ours
    assert "not yet: " in capsys.readouterr().out


def test_an_answer_that_changes_its_arguments_does_not_change_the_check(capsys):
    def emptying(train, test):
        found = lesson_03.leaks(train, test)
        train.clear()
        return found

    for _ in range(2):
        assert exercises.check("E3.1", emptying) is emptying


def test_hints_come_step_by_step_and_the_third_stays(capsys):
    said = []
    for _ in range(4):
        exercises.hint("E2.1")
        said.append(capsys.readouterr().out)
    assert [re.search(r"hint (\d) of 3", text)[1] for text in said] == ["1", "2", "3", "3"]
    assert said[2] == said[3] and len(set(said)) == 3
    exercises.hint("E2.2")
    assert "hint 1 of 3" in capsys.readouterr().out


def test_solution_shows_the_source_or_the_value_and_why(capsys):
    exercises.solution("E0.1")
    said = capsys.readouterr().out
    assert "def beats(" in said and "Why: " in said
    exercises.solution("E5.1")
    assert "'instant': 'retrieve-and-quote'" in capsys.readouterr().out


def test_an_unknown_exercise_is_answered_with_the_list():
    with pytest.raises(ValueError, match=r"'E9.9' does not exist; one of E0.1, E0.2"):
        exercises.check("E9.9", None)


def test_progress_counts_what_passed_and_survives_a_deleted_folder(runs, capsys):
    exercises.check("E0.1", lesson_00.beats)
    assert f"1 of {len(ALL)} exercises done" in capsys.readouterr().out
    exercises.progress()
    said = capsys.readouterr().out
    assert "lesson 00: E0.1 done, E0.2 open" in said and f"1 of {len(ALL)}" in said
    assert len(said.splitlines()) == len(core.LESSONS) + 1
    shutil.rmtree(runs)
    exercises.progress()
    assert f"0 of {len(ALL)}" in capsys.readouterr().out
    exercises.check("E0.1", lesson_00.beats)
    assert list(json.loads(core.progress_path().read_text())) == ["E0.1"]


def test_what_passed_once_stays_done_when_it_is_broken_later(capsys):
    exercises.check("E0.1", lesson_00.beats)
    first = core.progress_path().read_text()
    exercises.check("E0.1", lambda right, n, rival: True)
    exercises.check("E0.1", lesson_00.beats)
    assert core.progress_path().read_text() == first


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "\x00", '{"E0.1": '])
def test_a_broken_file_starts_anew_and_says_so(text, runs, capsys):
    runs.mkdir()
    core.progress_path().write_text(text)
    exercises.progress()
    assert "cannot be read" in capsys.readouterr().out
    exercises.check("E0.1", lesson_00.beats)
    assert list(json.loads(core.progress_path().read_text())) == ["E0.1"]


def _pass_many(names):
    for name in names:
        core._remember(name)


def test_two_processes_lose_none_of_each_others_progress(runs):
    context = multiprocessing.get_context("spawn")
    halves = [[f"{side}{i}" for i in range(40)] for side in "ab"]
    workers = [context.Process(target=_pass_many, args=(half,)) for half in halves]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert set(json.loads(core.progress_path().read_text())) == {*halves[0], *halves[1]}
    assert not list(runs.glob("*.part"))


def test_the_prompt_is_graded_by_the_form_of_eight_replies(capsys):
    ask = asked({"role": "system", "content": "Answer."})
    eight, seven = [GOOD] * 8 + ["prose"] * 2, [GOOD] * 7 + ["prose"] * 3
    assert exercises.check("E1.1", ask, generate=replying(*eight)) is ask
    assert exercises.check("E1.1", ask, generate=replying(*seven)) is lesson_01.my_messages
    said = capsys.readouterr().out
    assert "8 of 10 replies keep the form, at 100 prompt tokens" in said
    assert "7 of 10 replies" in said and "there is no JSON object" in said


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (GOOD, None),
        ("Sure.", "no JSON object"),
        ("Sure: " + GOOD, "text stands before"),
        (GOOD[:-2], "not one whole"),
        (GOOD + "\nNext", "not one whole"),
        ('{"policy": "none"}', "keys are missing (intent, priority, product, reply)"),
        (GOOD.replace('"none"', "1").replace('"Moss City"', "7"), "keys or values are not ours"),
        (GOOD.replace(" - Bramble desk", ""), "sign-off"),
        (GOOD.replace('"normal"', '"asap"'), "label of priority"),
        (GOOD.replace('"returns"', '"return"'), "label of intent"),
        (GOOD.replace('"RET-1"', '"RET-99"'), "unknown product or section"),
    ],
)
def test_a_reply_that_breaks_the_form_is_told_why(text, fault):
    said = lesson_01.form_fault(text)
    assert said is None if fault is None else fault in said


def test_what_the_grammar_exercise_calls_allowed_is_allowed_and_the_rest_is_not():
    from jsonschema import Draft202012Validator

    schema = Draft202012Validator(data.reply_schema())
    assert all(schema.is_valid(json.loads(t)) for t in lesson_01.COUNTEREXAMPLES.values())
    reply = lesson_00.TICKET["reply"]
    assert not schema.is_valid(reply | {"policy": "RET-99"})
    assert not schema.is_valid(reply | {"reply": "Unsigned."})
    assert not schema.is_valid({"policy": "RET-1"})


def rows_of_a_run():
    reply = [{"role": "assistant", "content": GOOD}]
    return [{"prompt": data.messages("A flat tyre.", data.SHORT_PROMPT), "completion": reply}]


def patient(name, tokenizer):
    (row,), rate = lesson_04.patient(name, rows_of_a_run(), tokenizer, 2e-3)
    graded = [t for t, m in zip(row["input_ids"], row["completion_mask"]) if m]
    return tokenizer.decode(row["input_ids"]), tokenizer.decode(graded), rate


def test_each_patient_of_the_clinic_has_its_cause_and_no_other(tokenizer):
    text, graded, rate = patient("healthy", tokenizer)
    assert graded == GOOD + "<|im_end|>\n" and rate == 2e-3
    assert text.startswith("<|im_start|>system")
    assert patient("B", tokenizer) == (text, graded, pytest.approx(0.2))
    mine, prompt, rate = patient("A", tokenizer)
    assert (mine, prompt + graded, rate) == (text, text, 2e-3)
    mine, unclosed, rate = patient("C", tokenizer)
    assert unclosed == GOOD + "\n" and rate == 2e-3 and mine == text.replace(graded, unclosed)
    mine, foreign, rate = patient("D", tokenizer)
    assert foreign.startswith(GOOD) and rate == 2e-3 and "<|im_start|>" not in mine


def test_the_first_fault_of_every_reply_is_the_one_that_the_exercise_means():
    assert {n: lesson_00.first_fault(n) for n in lesson_00.REPLIES} == ALL["E0.2"].ours
    assert set(ALL["E0.2"].ours.values()) >= {"resolved", "format", "triage", "policy", "facts"}


def test_each_wrong_choice_of_the_six_cases_has_a_cause_of_its_own():
    wrong = {
        (c, pick)
        for c, best in lesson_07._BEST.items()
        for pick in lesson_07.CHOICES
        if pick != best
    }
    assert wrong == set(lesson_07._OVERLOOKS) and set(lesson_07.CASES) == set(lesson_07._BEST)
    assert len({cause for cause, _ in lesson_07._OVERLOOKS.values()}) == len(wrong)


def test_a_wrong_choice_names_the_learners_own_row_or_the_lesson_that_makes_it(capsys):
    rate = {"value": 0.125, "low": 0.06, "high": 0.24}
    board = [
        {
            "method": "sft",
            "model": "m",
            "created": "1",
            "n": 48,
            "facts": rate,
            "prompt_tokens": 61.5,
        }
    ]
    exercises.check("E7.2", changed("E7.2", desk="fine-tune"), board=board)
    said = capsys.readouterr().out
    assert "sft facts 12 % (6 to 24, n = 48)" in said
    assert "no row of sft-rag yet (lesson 04 makes it)" in said
    exercises.check("E7.2", changed("E7.2", voice="both"), board=board)
    assert "sft prompt_tokens 61.5" in capsys.readouterr().out


def test_any_single_change_that_makes_the_step_fit_passes(capsys):
    for change in ({"checkpointing": True}, {"first_layer": 28}):
        assert exercises.check("E6.1", mine := fit(change=change)) is mine


def test_the_seeds_verdicts_do_not_hang_on_how_the_spread_is_measured(capsys):
    import statistics as stats

    def by_deviation(a, b, seeds):
        values = [share(s) for s in seeds]
        return (
            len(seeds) > 1
            and abs(share(b) - share(a)) > 2 * math.sqrt(2) * stats.stdev(values)
            and tickets_say(a, b, seeds)
        )

    assert exercises.check("E6.2", by_deviation) is by_deviation


def test_asking_for_an_exercise_loads_no_torch():
    import subprocess
    import sys

    code = "import sys, helpers.exercises as e; e.hint('E4.1'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=runtime.project_root())
