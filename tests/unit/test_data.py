import json
import re

import pytest

from helpers import data
from helpers.data import DataError, jaccard, masked, messages, near_copies, read_tickets, shingles


def faults(path):
    with pytest.raises(DataError) as caught:
        read_tickets(path)
    return caught.value.faults


# --- read_tickets ---


def test_valid_rows_come_back_unchanged_and_in_order(write, make_row):
    rows = [make_row(id="b"), make_row(id="a")]
    assert read_tickets(write(*rows)) == rows


def test_windows_line_ends_and_blank_lines_are_no_fault(write, make_row):
    assert (
        len(read_tickets(write(make_row(id="a"), "", "  ", make_row(id="b"), "", end=b"\r\n"))) == 2
    )


def test_path_may_be_text(write, make_row):
    assert read_tickets(str(write(make_row()))) == [make_row()]


def test_line_separator_inside_a_ticket_does_not_split_the_line(write, make_row):
    row = make_row(ticket="one\u2028two\x85three")
    assert read_tickets(write(json.dumps(row, ensure_ascii=False))) == [row]


def test_all_faults_of_a_file_are_reported_at_once_with_their_lines(write, make_row):
    missing = make_row(id="m")
    del missing["ticket"]
    path = write(
        make_row(id="a"),
        make_row(id="b", intent="sales"),
        '{"id": "c", ',
        missing,
        make_row(id="a"),
        make_row(asks=["x"]),
    )
    found = faults(path)
    assert [re.search(r"line (\d+)", fault)[1] for fault in found] == ["2", "3", "4", "5", "6"]


def test_message_counts_and_lists_every_fault(write, make_row):
    with pytest.raises(DataError) as caught:
        read_tickets(write("{", make_row(product="Fern 9")))
    assert str(caught.value).startswith("2 faults:\nmine.jsonl line 1: ")
    assert "\nmine.jsonl line 2: " in str(caught.value)


def test_single_fault_is_told_without_a_count(write):
    with pytest.raises(DataError, match=r"\Amine\.jsonl line 1: "):
        read_tickets(write("{"))


def test_blank_lines_count_in_line_numbers(write, make_row):
    assert "line 4:" in faults(write(make_row(), "", "", "{"))[0]


def test_several_faults_in_one_row_are_each_reported(write, make_row):
    found = faults(write(make_row(intent="sales", priority="asap", product="Fern 9")))
    assert len(found) == 3 and all("line 1" in fault for fault in found)


def test_data_error_is_a_value_error():
    assert isinstance(DataError(["x"]), ValueError)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"  \r\n\t\n"])
def test_file_without_rows_is_called_empty(write, content):
    assert faults(write(content)) == [
        "mine.jsonl: the file is empty; expected one JSON object a line"
    ]


def test_missing_file_is_named_with_its_folder(tmp_path):
    (fault,) = faults(tmp_path / "gone.jsonl")
    assert "gone.jsonl: no such file" in fault and tmp_path.name in fault


def test_duplicate_id_names_the_first_line(write, make_row):
    (fault,) = faults(write(make_row(), make_row(id="b"), make_row()))
    assert fault == 'mine.jsonl line 3: id "t-1" was already used on line 1'


def test_third_use_of_an_id_is_reported_too(write, make_row):
    lines = [
        re.findall(r"line (\d)", fault)
        for fault in faults(write(make_row(), make_row(), make_row()))
    ]
    assert lines == [["2", "1"], ["3", "1"]]


@pytest.mark.parametrize(
    "field, allowed",
    [("intent", data.INTENTS), ("priority", data.PRIORITIES), ("product", data.PRODUCTS)],
)
def test_unknown_label_lists_all_allowed_ones(write, make_row, field, allowed):
    (fault,) = faults(write(make_row(**{field: "Returns"})))
    assert f'field "reply.{field}" is "Returns"; one of {", ".join(allowed)}' in fault


def test_unknown_policy_shows_some_allowed_ones(write, make_row):
    (fault,) = (
        fault for fault in faults(write(make_row(policy="RET-99"))) if "reply.policy" in fault
    )
    assert "RET-1, RET-2" in fault and fault.endswith("...")


def test_unknown_facet_is_reported_by_its_place(write, make_row):
    assert 'field "facets.1" is "cheery"' in faults(write(make_row(facets=["terse", "cheery"])))[0]


def test_non_utf8_byte_is_shown_with_its_line(write, make_row):
    (fault,) = faults(write(make_row(), b'{"id": "caf\xe9"}'))
    assert fault.startswith("mine.jsonl line 2: byte 0xe9 is not UTF-8")


def test_non_utf8_byte_does_not_hide_the_other_faults(write, make_row):
    found = faults(write(b'{"id": "caf\xe9"}', make_row(intent="sales")))
    assert any("line 1" in fault for fault in found) and any("line 2" in fault for fault in found)


def test_truncated_last_line_is_reported_with_its_column(write, make_row):
    (fault,) = faults(write(make_row(id="a"), json.dumps(make_row())[:40]))
    assert re.search(r"line 2: not a whole JSON object \(.+ at column \d+\)", fault)


def test_two_objects_on_one_line_are_a_fault(write, make_row):
    assert "line 1: not a whole JSON object" in faults(write(json.dumps(make_row()) * 2))[0]


@pytest.mark.parametrize("line", ["5", "[]", '"text"', "null"])
def test_json_that_is_no_object_is_a_fault(write, line):
    assert "line 1" in faults(write(line))[0]


@pytest.mark.parametrize("field", ["id", "ticket", "facets", "asks", "reply"])
def test_missing_field_is_named(write, make_row, field):
    row = make_row()
    del row[field]
    assert faults(write(row)) == [f'mine.jsonl line 1: field "{field}" is missing']


@pytest.mark.parametrize("field", data.KEYS)
def test_missing_field_of_the_reply_is_named_with_its_path(write, make_row, field):
    row = make_row()
    del row["reply"][field]
    assert faults(write(row)) == [f'mine.jsonl line 1: field "reply.{field}" is missing']


def test_extra_key_in_the_reply_is_a_fault(write, make_row):
    row = make_row()
    row["reply"]["mood"] = "fine"
    assert "mood" in faults(write(row))[0]


@pytest.mark.parametrize(
    "change", [{"id": ""}, {"ticket": ""}, {"id": 7}, {"ticket": None}, {"asks": "return_window"}]
)
def test_empty_or_mistyped_field_is_named(write, make_row, change):
    assert f'field "{next(iter(change))}"' in faults(write(make_row(**change)))[0]


def test_ask_of_another_section_is_a_fault(write, make_row):
    (fault,) = faults(write(make_row(asks=["return_window", "return_fee"])))
    assert fault == 'mine.jsonl line 1: "asks" has "return_fee", which is no fact of RET-1'


def test_ask_outside_the_handbook_is_a_fault(write, make_row):
    assert "no fact of none" in faults(write(make_row(intent="other", policy="none")))[0]


def test_unknown_ask_is_reported_beside_an_unknown_label(write, make_row):
    found = faults(write(make_row(priority="asap", asks=["return_fee"])))
    assert any("return_fee" in fault for fault in found)


def test_duplicate_of_a_faulty_row_is_reported(write, make_row):
    found = faults(write(make_row(priority="asap"), make_row()))
    assert any("line 2" in fault and "already used" in fault for fault in found)


@pytest.mark.parametrize(
    "text",
    [
        "45 days.",
        "45 days. - Bramble Desk",
        "45 days. - Bramble desk!",
        "45 days. \u2013 Bramble desk",
    ],
)
def test_reply_without_its_sign_off_is_a_fault(write, make_row, text):
    row = make_row()
    row["reply"]["reply"] = text
    (fault,) = faults(write(row))
    assert fault == 'mine.jsonl line 1: field "reply.reply" must end with " - Bramble desk"'


def test_gold_reply_of_the_sign_off_alone_is_a_fault(write, make_row):
    row = make_row()
    row["reply"]["reply"] = " - Bramble desk"
    assert "reply.reply" in faults(write(row))[0]


def test_reply_schema_has_the_keys_in_the_house_order():
    # A grammar made of the schema writes the keys in its order
    assert tuple(data.reply_schema()["properties"]) == data.KEYS


@pytest.mark.parametrize(
    ("policy", "priority"),
    [
        ("SAF-1", "urgent"),
        ("PAY-3", "high"),
        ("RET-1", "normal"),
        ("BAT-1", "low"),
        ("none", "normal"),
    ],
)
def test_priority_belongs_to_the_section(policy, priority):
    assert data.priority_of(policy) == priority


@pytest.mark.parametrize("text", ["45 days. - Bramble desk\n", "on " * 31 + "- Bramble desk"])
def test_gold_reply_that_the_parser_would_refuse_is_a_fault(write, make_row, text):
    row = make_row()
    row["reply"]["reply"] = text
    assert "reply.reply" in faults(write(row))[0]


def test_broken_line_of_the_facts_is_named(folder):
    lines = ['{"policy": "RET-1", "key": "a", "value": "b"}', '{"policy": ', "[1]", '{"x": 1}']
    (folder / "facts.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError) as caught:
        data.facts()
    told = [re.match(r"facts\.jsonl line (\d)", fault)[1] for fault in caught.value.faults]
    assert list(dict.fromkeys(told)) == ["2", "3", "4"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"value": 45}, 'field "value"'),
        ({"value": " "}, 'field "value" is blank'),
        ({"key": None}, 'field "key"'),
        ({"accept": "forty-five"}, 'field "accept"'),
        ({"valeu_v2": "30 days"}, "valeu_v2"),
        ({}, "RET-1 window was already told on line 1"),
    ],
)
def test_a_fact_that_is_none_or_told_twice_is_a_fault_of_its_line(folder, change, told):
    fact = {"policy": "RET-1", "key": "window", "value": "45 days"}
    lines = [json.dumps(fact), json.dumps(fact | change)]
    (folder / "facts.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError) as caught:
        data.facts()
    (fault,) = caught.value.faults
    assert fault.startswith("facts.jsonl line 2: ") and told in fault


def test_a_byte_of_the_handbook_that_is_not_utf8_is_told_with_its_file_and_line(folder):
    (folder / "handbook").mkdir(exist_ok=True)
    (folder / "handbook" / "01_returns.md").write_bytes(b"# Returns\n## RET-1 \xb7 title\ntext")
    with pytest.raises(DataError, match=r"01_returns\.md line 2: byte 0xb7 is not UTF-8"):
        data.handbook()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"ticket": " \n"}, 'field "ticket" is blank'),
        ({"asks": []}, '"asks" is empty; name what is asked of RET-1'),
        ({"intent": "battery"}, 'field "reply.intent" is "battery"; RET-1 is of returns'),
        ({"intent": ["returns"]}, 'field "reply.intent" is'),
    ],
)
def test_a_row_that_says_nothing_or_contradicts_the_handbook_is_a_fault(
    write, make_row, change, told
):
    (fault,) = faults(write(make_row(**change)))
    assert told in fault


@pytest.mark.parametrize("split", ["dev", "", "Test", "../facts"])
def test_unknown_split_lists_the_known_ones(split):
    with pytest.raises(DataError, match="train, validation, test"):
        data.tickets(split)


# --- handbook ---


def updated():
    texts = {section.policy: section.text for section in data.handbook(2)}
    return [(fact, texts[fact.policy]) for fact in data.facts() if fact.value_v2]


def stands_in(value, text):
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text) is not None


def test_updated_handbook_holds_every_new_value():
    assert [fact for fact, text in updated() if not stands_in(fact.value_v2, text)] == []


def test_updated_handbook_holds_no_old_value():
    assert [fact for fact, text in updated() if stands_in(fact.value, text)] == []


def test_first_handbook_is_the_files_text_even_after_the_update():
    data.handbook(2)
    files = " ".join(
        " ".join(p.read_text("utf-8").split()) for p in (data.data_dir() / "handbook").glob("*.md")
    )
    assert [s.policy for s in data.handbook(1) if s.text not in files] == []


def test_update_changes_only_the_sections_with_a_new_value():
    changed = {a.policy for a, b in zip(data.handbook(1), data.handbook(2), strict=True) if a != b}
    assert changed == {fact.policy for fact in data.facts() if fact.value_v2}


def test_update_keeps_codes_titles_and_order():
    codes = [[(s.policy, s.title, s.intent) for s in data.handbook(version)] for version in (1, 2)]
    assert codes[0] == codes[1]


def test_update_replaces_whole_values_only(monkeypatch):
    monkeypatch.setattr(data, "facts", lambda: (data.Fact("RET-1", "x", "5 days", "9 days"),))
    section = data.Section("RET-1", "t", "Within 45 days, or 5 days.", "returns")
    assert data._updated(section).text == "Within 45 days, or 9 days."


@pytest.mark.parametrize("version", [0, 3, "2"])
def test_unknown_handbook_version_is_a_data_error(version):
    with pytest.raises(DataError, match="does not exist"):
        data.handbook(version)


def test_passage_carries_code_title_and_text():
    assert data.Section("RET-1", "Title", "Text.", "returns").passage == "[RET-1] Title: Text."


def test_data_folder_without_sections_is_a_data_error(monkeypatch, tmp_path):
    monkeypatch.setattr(data, "data_dir", lambda: tmp_path)
    with pytest.raises(DataError, match="no section found"):
        data.handbook(1)


# --- messages ---


def test_plain_messages_are_system_and_ticket():
    assert messages("Help", "Be kind.") == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Ticket: Help"},
    ]


def test_examples_become_turns_between_system_and_ticket(make_row):
    turns = messages("Help", examples=[make_row(), make_row()])
    assert [turn["role"] for turn in turns] == ["system", *["user", "assistant"] * 2, "user"]


def test_example_is_answered_by_its_gold_reply(make_row):
    assert json.loads(messages("Help", examples=[make_row()])[2]["content"]) == make_row()["reply"]


def test_sections_stand_before_the_ticket_best_first():
    best, second = data.handbook()[3], data.handbook()[0]
    content = messages("Help", sections=[best, second])[-1]["content"]
    assert content == f"Handbook:\n{best.passage}\n{second.passage}\n\nTicket: Help"


def test_sections_of_an_example_stay_in_its_own_turn(make_row):
    section = data.handbook()[0]
    turns = messages("Help", examples=[{**make_row(), "sections": [section]}])
    assert section.passage in turns[1]["content"] and "Handbook:" not in turns[-1]["content"]


def test_sections_of_the_ticket_do_not_leak_into_examples(make_row):
    turns = messages("Help", examples=[make_row()], sections=data.handbook()[:1])
    assert "Handbook:" not in turns[1]["content"]


def test_messages_leaves_its_examples_unchanged(make_row):
    examples = [make_row()]
    messages("Help", examples=examples)
    assert examples == [make_row()]


def test_dumps_orders_the_keys_whatever_order_they_came_in(make_row):
    reply = make_row()["reply"]
    assert data.dumps(dict(reversed(reply.items()))) == data.dumps(reply)
    assert tuple(json.loads(data.dumps(reply))) == data.KEYS


def test_dumps_is_one_line_and_keeps_unicode(make_row):
    text = data.dumps({**make_row()["reply"], "reply": "5 °C\nor so - Bramble desk"})
    assert "°C" in text and "\n" not in text


def test_dumps_drops_keys_that_are_not_of_the_house(make_row):
    assert "mood" not in data.dumps({**make_row()["reply"], "mood": "fine"})


# --- masking and near copies ---


@pytest.mark.parametrize("product", data.PRODUCTS[:-1])
@pytest.mark.parametrize(
    "write_it", [str, str.lower, str.upper, lambda name: name.replace(" ", "")]
)
def test_mask_hides_every_spelling_of_a_product(product, write_it):
    assert masked(f"is the {write_it(product)} in stock") == "is the <product> in stock"


@pytest.mark.parametrize("order", ["BB-12345", "bb12345", "12345", "#4711", "123456"])
def test_mask_hides_order_numbers(order):
    assert masked(f"where is order {order} now") == "where is order <order> now"


@pytest.mark.parametrize("figure", ["123", "1234567"])
def test_mask_keeps_figures_that_are_no_order_number(figure):
    assert figure in masked(f"I rode {figure} of them")


@pytest.mark.parametrize(
    "greeting", ["Hi, ", "hey, ", "Hello! ", "Good morning, ", "Dear Bramble team, ", "Hi there: "]
)
def test_mask_removes_the_greeting(greeting):
    assert masked(greeting + "my brakes squeal.") == "my brakes squeal"


@pytest.mark.parametrize(
    "start", ["History, as they say.", "Heyday, gone.", "I said hello, twice."]
)
def test_mask_keeps_words_that_only_look_like_a_greeting(start):
    assert masked(start) == " ".join(re.findall(r"\w+", start.lower()))


def test_mask_keeps_a_short_first_sentence_after_a_bare_hi():
    assert "brakes" in masked("Hi my brakes fail. Help")


def test_mask_ignores_case_punctuation_and_spaces():
    assert masked("Is it  FREE?!\n(really)") == masked("is it free - really")


def test_masking_twice_changes_nothing_more():
    once = masked("Hello, my Fern 2 (order BB-12345) is late!")
    assert masked(once) == once


@pytest.mark.parametrize("text", ["", "ab", "abcd"])
def test_text_shorter_than_a_shingle_is_one_shingle(text):
    assert shingles(text) == {text}


def test_shingles_are_all_windows_of_five():
    assert shingles("abcdefg") == {"abcde", "bcdef", "cdefg"}


@pytest.mark.parametrize(
    "a, b, similarity",
    [
        ("", "", 0),
        ("a", "", 0),
        ("", "a", 0),
        ("ab", "ab", 1),
        ("ab", "cd", 0),
        ("abc", "bcd", 0.5),
    ],
)
def test_jaccard_edges(a, b, similarity):
    assert jaccard(frozenset(a), frozenset(b)) == similarity


def row(name, ticket):
    return {"id": name, "ticket": ticket}


BRAKES = "Hi, the front brake of my Fern 2 squeals whenever it rains, order BB-12345."


def test_copy_with_other_product_order_and_greeting_is_a_full_match():
    copy = (
        "Good morning, the front brake of my Thistle Trail squeals whenever it rains, order 99871."
    )
    assert near_copies([row("a", BRAKES)], [row("b", copy)]) == [("a", "b", 1.0)]


def test_unrelated_ticket_is_no_near_copy():
    assert (
        near_copies([row("a", BRAKES)], [row("b", "How do I pair the app with a second phone?")])
        == []
    )


def test_similarity_at_the_limit_is_allowed():
    a, b = row("a", "abcdefg"), row("b", "bcdefgh")
    assert near_copies([a], [b], limit=0.5) == []
    assert near_copies([a], [b], limit=0.49) == [("a", "b", 0.5)]


def test_ticket_is_no_near_copy_of_itself():
    assert near_copies([row("a", BRAKES)], [row("a", BRAKES)]) == []


def test_near_copies_come_worst_first():
    a, close, same = row("a", "abcdefgh"), row("close", "abcdefgx"), row("same", "abcdefgh")
    assert [pair[1] for pair in near_copies([a], [close, same])] == ["same", "close"]


# --- data_sha256 ---


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in (
        "handbook/01_returns.md",
        "facts.jsonl",
        "tickets/train.jsonl",
        "tickets/test.jsonl",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(f"{name}\nsecond line\n".encode())
    monkeypatch.setattr(data, "data_dir", lambda: tmp_path)
    return tmp_path


def test_shipped_hash_is_64_hex_digits():
    assert re.fullmatch("[0-9a-f]{64}", data.data_sha256())


@pytest.mark.parametrize(
    "name", ["handbook/01_returns.md", "facts.jsonl", "tickets/train.jsonl", "tickets/test.jsonl"]
)
def test_hash_changes_with_one_letter_of_any_file(folder, name):
    before = data.data_sha256()
    (folder / name).write_bytes((folder / name).read_bytes().replace(b"second", b"Second"))
    assert data.data_sha256() != before


def test_hash_does_not_depend_on_line_ends(folder):
    before = data.data_sha256()
    for path in folder.rglob("*.jsonl"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert data.data_sha256() == before


def test_hash_ignores_files_that_no_score_depends_on(folder):
    before = data.data_sha256()
    (folder / "make_train.py").write_text("x")
    (folder / "tickets" / "train.jsonl.part").write_text("x")
    assert data.data_sha256() == before
