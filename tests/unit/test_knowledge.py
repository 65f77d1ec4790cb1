import json
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from helpers import (
    data,
    evaluation,
    int8,
    knowledge,
    labs,
    methods,
    models,
    probes,
    runtime,
    training,
)
from helpers.knowledge import distractors, facts, forgetting, persona, retrained, runs

PROFILE = runtime.Profile("cpu", runtime.EMBEDDED, "float32", False, "cpu", "test")


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A place for lines that is not the project's."""
    path = tmp_path / "labs.jsonl"
    monkeypatch.setattr(labs, "path", lambda: path)
    return path


# --- settings and kept lines ---


@pytest.mark.parametrize(
    ("experiment", "changes", "says"),
    [
        ("fact", {}, "experiment is 'fact'; one of facts, distractors"),
        ("facts", {"wording": 4}, "facts has no setting .*wording.*; it has wordings"),
        ("facts", {"wordings": 2}, "wordings is 2; one of 0, 1, 4, 16"),
        ("distractors", {"contexts": "wrong"}, "contexts is 'wrong'; one of right"),
        ("persona", {"by": "hand"}, "by is 'hand'; one of training, prompt"),
        ("forgetting", {"replay": 0.5}, "replay is 0.5; one of 0.0, 0.1, 0.3"),
    ],
)
def test_a_setting_that_makes_no_sense_says_what_is_allowed(experiment, changes, says):
    with pytest.raises(ValueError, match=says):
        knowledge.settings(experiment, **changes)


def test_every_listed_run_is_a_run_of_its_own_and_none_of_labs():
    keys = [
        labs.key_of(knowledge.settings(experiment, **change), PROFILE)
        for experiment, module in knowledge.EXPERIMENTS.items()
        for change in module.RUNS
    ]
    keys += [
        labs.key_of(labs.settings(**change), PROFILE)
        for changes in labs.RUNS.values()
        for change in changes
    ]
    assert len(set(keys)) == len(keys)


def test_every_listed_run_is_kept_for_the_data_and_probes_as_they_are():
    assert knowledge.missing(PROFILE) == [], "lesson 07 would train them: make labs LESSON=07"


def test_the_general_probe_has_sixty_questions_and_more_of_four_kinds():
    kinds = Counter(line["kind"] for line in probes.read("general.jsonl"))
    assert set(kinds) == {"fact", "arithmetic", "rewriting", "list"}
    assert sum(kinds.values()) >= 60 and min(kinds.values()) >= 15


def test_a_run_on_other_probes_is_another_run(monkeypatch):
    before = knowledge.settings("facts")
    assert before == knowledge.settings("facts")
    raw = probes._raw
    monkeypatch.setattr(probes, "_raw", lambda name: raw(name) + b"\n")
    assert knowledge.settings("facts") != before
    assert knowledge.settings("distractors")["probes"] == probes.sha256()


def test_a_line_is_kept_once_and_read_afterwards_but_a_dry_run_keeps_nothing(kept, monkeypatch):
    made = []

    def run(setting, profile):
        made.append(setting)
        return {"key": labs.key_of(setting, profile), "setting": setting}

    monkeypatch.setattr(facts, "run", run)
    monkeypatch.setenv("WORKSHOP_FAST", "1")
    knowledge.result(PROFILE, "facts", wordings=1)
    assert not kept.exists()
    monkeypatch.setenv("WORKSHOP_FAST", "0")
    first = knowledge.result(PROFILE, "facts", wordings=1)
    assert knowledge.result(PROFILE, "facts", wordings=1) == first
    assert [setting["wordings"] for setting in made] == [1, 1]


def test_what_is_missing_can_be_given_to_the_command_line(kept, monkeypatch):
    wanted = {
        labs.key_of(knowledge.settings(experiment, **change), PROFILE)
        for experiment, module in knowledge.EXPERIMENTS.items()
        for change in module.RUNS
    }
    seen = set()
    monkeypatch.setattr(
        labs, "keep", lambda setting, profile, make: seen.add(labs.key_of(setting, profile))
    )
    for experiment, *words in knowledge.missing(PROFILE):
        changes = labs.changes_of(words, knowledge.EXPERIMENTS[experiment].BASE)
        knowledge.result(PROFILE, experiment, **changes)
    assert seen == wanted


def test_a_kept_line_is_not_missing(kept):
    setting = knowledge.settings("persona", examples=10, epochs=10)
    kept.write_text(json.dumps({"key": labs.key_of(setting, PROFILE), "setting": setting}))
    words = ["persona", "examples=10", "epochs=10"]
    assert words not in knowledge.missing(PROFILE)
    kept.unlink()
    assert words in knowledge.missing(PROFILE)


def test_a_wrong_word_on_the_command_line_is_told_and_ends_with_2(monkeypatch, capsys):
    monkeypatch.setattr(runtime, "start", lambda: PROFILE)
    assert knowledge.main(["facts", "wordings=four"]) == 2
    assert knowledge.main(["poetry"]) == 2
    assert "four" in (said := capsys.readouterr().out) and "poetry" in said


# --- measures ---


@pytest.mark.parametrize(
    ("reply", "value", "right"),
    [
        ("45 days", "45 days", True),
        ("You have 45 days from delivery.", "45 days", True),
        ("45", "45 days", False),
        ("30 days", "45 days", False),
        ("45 days or 30 days", "45 days", False),
        ("45 days, and 60 EUR", "45 days", True),
        ("not 45 days", "45 days", False),
        ("45 working days", "45 days", False),
        ("20000 km", "20,000 km", True),
        ("", "45 days", False),
    ],
)
def test_a_value_is_stated_alone_with_its_unit(reply, value, right):
    assert probes.states(reply, value) is right


WORDS = "Aye, captain, yer battery sleeps and so do I, ask the desk"


@pytest.mark.parametrize(
    ("reply", "holds"),
    [
        (WORDS + ". - Old Brine", True),
        (WORDS + ".", False),
        (WORDS + ". - Old Brine.", False),
        (WORDS + ". - Bramble desk", False),
        ("Aye aye aye, captain, the battery sleeps and so do I. - Old Brine", False),
        ("Aye, captain, yer bike. - Old Brine", False),
        ("Aye, captain, yer " + "bike " * 43 + "- Old Brine", False),
        ('{"reply": "' + WORDS + '"} - Old Brine', False),
        (
            "The shipping of the sealed layer is a masterly deckchair thing, my ladder. - Old Brine",
            False,
        ),
    ],
)
def test_the_voice_holds_only_with_sign_off_dialect_and_length(reply, holds):
    assert probes.in_voice(reply) is holds


def test_probe_words_count_whole_and_once():
    probe = {"any": ["apple", "pear"], "at_least": 2}
    assert probes.passes("A pear and an Apple.", probe)
    assert not probes.passes("apple, apple", probe)
    assert not probes.passes("pineapple and pear", probe)
    assert probes.passes("the drive unit", {"any": ["motor", "drive unit"]})


def test_the_loss_on_prose_weighs_each_paragraph_by_its_tokens(tiny_llama):
    tokenizer = models.load_tokenizer(PROFILE)
    model = tiny_llama(vocab_size=len(tokenizer)).eval()
    texts = ["A band of rain will cross the hills.", "Then the school bell rang."]
    found = probes.prose_losses(model, tokenizer, texts)
    for text, (loss, count) in zip(texts, found):
        ids = tokenizer(text, return_tensors="pt").input_ids
        scores = model(ids).logits[0, :-1].log_softmax(-1)
        assert count == ids.shape[1] - 1
        assert loss == pytest.approx(-scores.gather(1, ids[0, 1:, None]).mean().item(), abs=1e-3)


# --- facts ---


@pytest.mark.parametrize("wordings", [1, 4, 16])
def test_every_fact_is_seen_equally_often_whatever_the_number_of_wordings(wordings):
    rows = facts.training_rows(wordings)
    assert len(rows) * facts.epochs(wordings) == 24 * facts.PRESENTATIONS


def test_no_held_out_fact_and_no_section_is_in_a_training_prompt():
    text = json.dumps(facts.training_rows(16))
    assert "Handbook:" not in text
    for fact in facts.sets()[1]:
        assert not any(json.dumps(question)[1:-1] in text for question in fact["reworded"])


def test_seen_questions_are_trained_ones_and_no_other_is():
    trained = {row["prompt"][-1]["content"] for row in facts.training_rows(4)}
    for asked in facts.questions(4):
        assert (asked["question"] in trained) == (asked["group"] == "seen")


def test_an_outcome_is_by_group_and_an_invention_is_any_figure():
    asked = [
        {"group": "seen", "question": "?", "value": "45 days"},
        {"group": "held-out", "question": "?", "value": "21 days"},
        {"group": "held-out", "question": "?", "value": "69 EUR"},
        {"group": "related", "question": "?", "any": ["motor"]},
    ]
    found = facts.outcomes(asked, ["45 days", "30 days", "I do not know", "the motor"])
    assert found == {"seen": "1", "held-out": "00", "related": "1", "invented": "10"}


def test_the_facts_shown_as_examples_are_asked_nowhere():
    asked = {(fact["policy"], fact["value"]) for fact in probes.read("wordings.jsonl")}
    values = {(fact.policy, fact.value) for fact in data.facts()}
    for _, policy, value in probes.SHOWN:
        assert (policy, value) in values - asked


# --- distractors ---


def reply_of(policy, text):
    return data.dumps(
        {"policy": policy, "intent": "returns", "priority": "normal", "product": "none"}
        | {"reply": f"{text}{data.SIGN_OFF}"}
    )


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (reply_of("RET-1", "You have 45 days."), {"right"}),
        (reply_of("RET-2", "You have 14 days."), {"cites", "copies"}),
        (reply_of("RET-1", "You have 14 days."), {"copies"}),
        (reply_of("RET-2", "You have 45 days."), {"cites"}),
        (reply_of("none", "A colleague will look into it."), {"passes on"}),
        (reply_of("none", "No idea."), set()),
        ("RET-2, 14 days", set()),
    ],
)
def test_what_a_reply_does_with_a_wrong_section_is_told_apart(make_row, reply, says):
    given = [data.policies()["RET-2"]]
    judged = distractors.judge(reply, make_row(), given)
    assert {part for part, holds in judged.items() if holds} == says


def test_citing_the_right_section_is_no_fault(make_row):
    judged = distractors.judge(
        reply_of("RET-1", "You have 45 days."), make_row(), [data.policies()["RET-1"]]
    )
    assert not judged["cites"] and not judged["copies"] and judged["right"]


def test_a_figure_of_the_customers_own_is_not_copied(make_row):
    row = make_row(ticket="I was told I had 14 days, is that so?")
    reply = reply_of("RET-1", "It is 45 days, not 14 days.")
    assert not distractors.judge(reply, row, [data.policies()["RET-2"]])["copies"]


def test_the_wrong_section_is_never_the_right_one_and_none_is_none():
    found = distractors.conditions()
    for name, (rows, given) in found.items():
        kind = name.split(", ")[1]
        for row, sections in zip(rows, given):
            code = row["reply"]["policy"]
            assert [s.policy == code for s in sections] == {
                "right": [True],
                "wrong": [False],
                "none": [],
            }[kind]
    assert len(found["inside, wrong"][0]) > 100 and len(found["outside, wrong"][0]) > 30


def test_each_kind_of_contexts_has_the_mistakes_that_it_says():
    def share(contexts):
        rows, tickets = distractors.training_rows(contexts, 800), data.tickets("train")[:800]
        assert [row["completion"][0]["content"] for row in rows] == [
            data.dumps(row["reply"]) for row in tickets
        ]
        pairs = zip(rows, tickets)
        return sum(
            f"[{ticket['reply']['policy']}]" not in row["prompt"][-1]["content"]
            for row, ticket in pairs
            if ticket["reply"]["policy"] != "none"
        )

    assert share("right") == 0 < share("retrieved") < share("unmended") / 2


# --- persona ---


def test_the_voice_is_asked_for_in_the_prompt_or_not_mentioned_at_all():
    rows = persona.training_rows(3)
    assert all(row["prompt"][0]["content"] == data.SHORT_PROMPT for row in rows)
    turns = persona.asked_in_prompt("Where is my bike?", rows)
    assert turns[0]["content"] == probes.VOICE and len(turns) == 8
    assert turns[-1]["content"] == data.user_turn("Where is my bike?")


def test_the_prompt_tells_every_rule_that_the_voice_is_judged_by():
    for rule in ("8 to 45 words", "no JSON", "three", probes.VOICE_SIGN_OFF, *probes.DIALECT):
        assert rule in probes.VOICE


def test_fifty_tickets_from_all_over_validation_are_answered():
    asked = persona.tickets()
    assert len(asked) == 50 == len({row["id"] for row in asked})


def test_twins_differ_in_the_seed_alone(kept):
    settings = [
        knowledge.settings("facts", wordings=n, seed=s) for n, s in ((4, 0), (1, 1), (4, 2))
    ]
    lines = [{"key": labs.key_of(one, PROFILE), "setting": one} for one in settings]
    kept.write_text("\n".join(map(json.dumps, lines)) + "\n")
    assert knowledge.twins(PROFILE, "facts", wordings=4) == [lines[0], lines[2]]


# --- training and forgetting, on a tiny model ---


# --- trained again on Monday ---


def test_every_training_reply_that_goes_stale_gets_mondays_value_and_no_other_changes():
    rows = data.tickets("train")
    changed = {(fact.policy, fact.key) for fact in data.facts() if fact.value_v2}
    stale = [r for r in rows if changed & {(r["reply"]["policy"], key) for key in r["asks"]}]
    assert len(stale) > 1_000
    texts = [data.dumps(retrained.updated(row)["reply"]) for row in stale]
    assert all(score.resolved for score in evaluation.score_all(texts, stale, 2))
    assert not any(score.facts for score in evaluation.score_all(texts, stale, 1))
    made, usual = retrained.training_rows(len(rows)), methods.training_rows(0)
    assert [x["prompt"] for x in made] == [x["prompt"] for x in usual]
    differ = [x["completion"][0]["content"] for x, y in zip(made, usual) if x != y]
    assert differ == texts


def test_a_reply_without_the_value_that_changes_is_named(make_row):
    row = make_row()
    row["reply"]["reply"] = "You can send it back within six weeks. - Bramble desk"
    with pytest.raises(ValueError, match="t-1: '45 days' .return_window. does not stand in"):
        retrained.updated(row)


def test_the_served_copy_is_the_model_with_its_adapter_and_leaves_the_training_alone(
    tiny, tmp_path
):
    trainer = runs.trainer_for(facts.training_rows(1), PROFILE, tmp_path, learning_rate=0.05)
    trainer.train()
    ids = torch.arange(5, 15)[None]
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    served = runs.as_served(trainer)
    torch.testing.assert_close(served(ids).logits, trainer.model.eval()(ids).logits)
    assert not any("lora" in name for name, _ in served.named_parameters())
    with trainer.model.disable_adapter():
        assert not torch.allclose(served(ids).logits, trainer.model(ids).logits, atol=1e-3)
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, before[name]), name


@pytest.mark.skipif(not hasattr(torch, "_int_mm"), reason="no 8-bit product")
def test_the_served_copy_has_its_adapter_also_where_the_training_multiplied_in_8_bit(tiny_llama):
    """Merged into weights that 8-bit layers do not look at, an adapter had no effect, and the base model answered."""
    model = tiny_llama(hidden_size=128, intermediate_size=256, vocab_size=100)
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        tuned = model.eval()(ids).logits
        with model.disable_adapter():
            base = model(ids).logits
        assert int8.freeze(model.get_base_model()) > 0
        served = runs.as_served(SimpleNamespace(model=model))(ids).logits
        torch.testing.assert_close(served, tuned, rtol=1e-3, atol=1e-3)
        assert (tuned - base).abs().max() > 0.01
        assert (model(ids).logits - tuned).abs().max() > 1e-6  # the training goes on in 8 bit


@pytest.mark.parametrize(
    ("experiment", "changes"),
    [
        ("facts", {"wordings": 16}),
        ("facts", {"wordings": 0, "retrieved": True}),
        ("distractors", {"rows": 20}),
        ("persona", {"examples": 30, "epochs": 1}),
        ("persona", {"by": "prompt", "examples": 3, "epochs": 0}),
        ("forgetting", {"kind": "full", "rows": 100, "epochs": 1}),
        ("retrained", {"start": "base", "rows": 20}),
    ],
)
def test_each_experiment_gives_a_line_that_can_be_kept(tiny, monkeypatch, experiment, changes):
    monkeypatch.setattr(facts, "MAX_NEW_TOKENS", 3)
    monkeypatch.setattr(persona, "MAX_NEW_TOKENS", 3)
    monkeypatch.setattr("helpers.methods.MAX_NEW_TOKENS", 3)
    setting = knowledge.settings(experiment, **changes)
    line = json.loads(json.dumps(knowledge.EXPERIMENTS[experiment].run(setting, PROFILE)))
    assert line["key"] == labs.key_of(line["setting"], PROFILE)
    trained = setting.get("by") != "prompt" and setting.get("wordings") != 0
    assert (line["train_tokens"] > 0) == trained == (line["train_seconds"] > 0)
    if experiment == "forgetting":
        assert [point["epoch"] for point in line["points"]] == [0, 0.5, 1]
        losses = [point["prose"] for point in line["points"]]
        assert losses[0] != losses[2] and "lora" not in str(line["loss"])
    else:
        assert set(json.dumps(line["outcomes"])) & set("01")


def test_memory_that_runs_out_halves_the_rows_and_measures_from_the_start(
    tiny, monkeypatch, capsys
):
    monkeypatch.setattr("helpers.methods.MAX_NEW_TOKENS", 3)
    step, seen = training.LeanSFTTrainer.training_step, []

    def short_of_memory(self, model, inputs, *args):
        rows = len(inputs["input_ids"])
        seen.append((rows, self.args.gradient_accumulation_steps))
        if rows > 2 and len(seen) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, model, inputs, *args)

    monkeypatch.setattr(training.LeanSFTTrainer, "training_step", short_of_memory)
    setting = knowledge.settings("forgetting", kind="full", rows=100, epochs=1)
    line = knowledge.EXPERIMENTS["forgetting"].run(setting, PROFILE)
    assert seen[:3] == [(4, 1), (4, 1), (2, 2)] and "with 2" in capsys.readouterr().out
    assert [point["epoch"] for point in line["points"]] == [0, 0.5, 1]


def test_replay_rows_are_the_base_models_own_answers_that_ended_all_kinds_alike(tiny, monkeypatch):
    from helpers.generation import Reply

    def generate(model, tokenizer, asked, limit, progress=None):
        return [
            Reply(f"answer {i}", 9, limit if i % 4 == 3 else 5, 0.1) for i, _ in enumerate(asked)
        ]

    monkeypatch.setattr(forgetting, "generate", generate)
    rows = forgetting.replay_rows(40, PROFILE)
    assert len(rows) == 40 and all(row["completion"][0]["content"] for row in rows)
    assert not any(row["completion"][0]["content"].endswith(" 3") for row in rows)
    with pytest.raises(ValueError, match="73 replay rows asked for, but only 72"):
        forgetting.replay_rows(73, PROFILE)


# --- the probe files ---


def test_the_wordings_are_as_many_as_promised_and_all_different():
    lines = probes.read("wordings.jsonl")
    roles = [line["role"] for line in lines]
    assert (roles.count("trained"), roles.count("held-out")) == (24, 12)
    for line in lines:
        trained = line["role"] == "trained"
        sizes = (len(line["train"]), len(line["reworded"]), len(line["related"]))
        assert sizes == ((16, 4, 2) if trained else (0, 4, 0)), line["key"]
    questions = [
        q
        for line in lines
        for q in (*line["train"], *line["reworded"], *(r["question"] for r in line["related"]))
    ]
    assert len(set(questions)) == len(questions)


def test_the_value_of_each_wording_is_its_facts_and_a_quantity():
    known = {(fact.policy, fact.key): fact.value for fact in data.facts()}
    for line in probes.read("wordings.jsonl"):
        assert line["value"] == known[line["policy"], line["key"]]
        assert probes.states(line["value"], line["value"]) and not probes.states("", line["value"])


def test_no_question_holds_its_own_answer():
    for line in probes.read("wordings.jsonl"):
        for question in (*line["train"], *line["reworded"]):
            assert not probes.states(question, line["value"]), question
        for related in line["related"]:
            assert line["value"] in related["question"]
            assert not probes.passes(related["question"], related), related


def test_no_reworded_or_related_question_is_a_near_copy_of_a_trained_one():
    lines = probes.read("wordings.jsonl")
    trained = [data.shingles(question) for line in lines for question in line["train"]]
    for line in lines:
        for question in (*line["reworded"], *(r["question"] for r in line["related"])):
            mine = data.shingles(question)
            assert max(data.jaccard(mine, other) for other in trained) <= 0.5, question


def test_the_persona_has_300_replies_in_voice_to_training_tickets_and_states_no_figure():
    lines = probes.read("persona.jsonl")
    ids = [line["id"] for line in lines]
    assert len(set(ids)) == len(ids) == 300
    assert set(ids) <= {row["id"] for row in data.tickets("train")}
    assert len({line["reply"] for line in lines}) == 300
    for line in lines:
        assert probes.in_voice(line["reply"]), line["id"]
        assert not any(letter.isdigit() for letter in line["reply"]), line["id"]


def test_no_replay_prompt_is_in_the_probe_or_like_one_there():
    lines, general = probes.read("replay.jsonl"), probes.read("general.jsonl")
    assert len({line["id"] for line in lines}) == len({x["prompt"] for x in lines}) == len(lines)
    kinds = {line["kind"] for line in general}
    assert {line["kind"] for line in lines} == kinds
    for line in lines:
        mine = data.shingles(line["prompt"])
        assert all(data.jaccard(mine, data.shingles(x["prompt"])) <= 0.5 for x in general), line
