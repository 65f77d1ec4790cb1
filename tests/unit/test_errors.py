import json
from collections import Counter

import pytest

from benchmarks import audit as sheet
from helpers import data, errors
from helpers.data import SIGN_OFF, dumps, policies

ENTRIES = [
    json.loads(line)
    for line in (data.data_dir() / "audit.jsonl").read_text(encoding="utf-8").splitlines()
]


def said(row, text=None, **changes):
    reply = {**row["reply"], **changes}
    return dumps(reply | {"reply": text + SIGN_OFF} if text else reply)


def outside(make_row):
    return make_row(asks=[], policy="none", intent="other")


RIGHT, OTHER = ("RET-1", "RET-2")

# --- the cause of a wrong reply ---


def test_right_reply_has_no_cause(make_row):
    assert errors.cause_of(said(make_row()), make_row(), [policies()[RIGHT]]) is None


@pytest.mark.parametrize("text", ["", "prose", "{}"])
def test_reply_that_does_not_parse_is_a_fault_of_format_whatever_was_retrieved(make_row, text):
    assert errors.cause_of(text, make_row(), [policies()[OTHER]]) == "format"


def test_known_answer_under_a_wrong_label_is_a_fault_of_the_label(make_row):
    for change in ({"intent": "delivery"}, {"priority": "urgent"}, {"product": "none"}):
        text = said(make_row(), **change)
        for context in (None, [], [policies()[RIGHT]], [policies()[OTHER]]):
            assert errors.cause_of(text, make_row(), context) == "label"


def test_right_answer_with_the_code_of_a_page_not_shown_is_a_label(make_row):
    text = said(make_row(), policy=OTHER)
    assert errors.cause_of(text, make_row(), [policies()[RIGHT]]) == "label"


@pytest.mark.parametrize("context", [[], [OTHER], [OTHER, "RET-3"]])
def test_wrong_answer_without_the_right_page_is_a_fault_of_retrieval(make_row, context):
    text = said(make_row(), "You have 14 days.")
    assert errors.cause_of(text, make_row(), [policies()[p] for p in context]) == "retrieval"


def test_value_left_out_with_the_right_page_shown_is_a_fault_of_reading(make_row):
    text = said(make_row(), "You can send it back.")
    assert errors.cause_of(text, make_row(), [policies()[RIGHT]]) == "reading"


def test_value_of_another_page_shown_is_a_fault_of_reading(make_row):
    text = said(make_row(), "You have 14 days.")
    assert errors.cause_of(text, make_row(), [policies()[RIGHT], policies()[OTHER]]) == "reading"


@pytest.mark.parametrize("said_instead", ["You have 13 days.", "Call 0800 999 9999."])
def test_figure_from_nowhere_is_invented(make_row, said_instead):
    text = said(make_row(), said_instead)
    assert errors.cause_of(text, make_row(), [policies()[RIGHT]]) == "invented"


def test_figure_that_the_customer_named_is_not_invented(make_row):
    row = make_row(ticket="May I keep the Moss City for 13 days?")
    text = said(row, "You have 13 days.")
    assert errors.cause_of(text, row, [policies()[RIGHT]]) == "reading"


def test_closed_book_knows_no_retrieval_and_no_reading(make_row):
    row = make_row()
    assert errors.cause_of(said(row, "You have 13 days."), row) == "invented"
    assert errors.cause_of(said(row, "You have 14 days."), row) == "memory"
    assert errors.cause_of(said(row, "You can send it back."), row) == "memory"


def test_page_shown_for_a_ticket_outside_the_handbook_is_a_fault_of_retrieval(make_row):
    row = outside(make_row)
    text = said(row, "You have 45 days.", policy=RIGHT, intent="returns")
    assert errors.cause_of(text, row, [policies()[RIGHT]]) == "retrieval"
    assert errors.cause_of(text, row, []) == "invented"


def test_updated_handbook_blames_the_old_value(make_row):
    text = said(make_row(), "You have 45 days.")
    assert errors.cause_of(text, make_row(), [policies()[RIGHT]], version=1) is None
    assert errors.cause_of(text, make_row(), [data.handbook(2)[0]], version=2) == "invented"


# --- the table ---


@pytest.fixture
def frame(make_row):
    rows = [make_row(id=f"t-{i}", facets=["terse"] if i % 2 else ["angry"]) for i in range(4)]
    texts = [said(rows[0]), "", said(rows[2], product="none"), said(rows[3], "You have 13 days.")]
    return errors.wrong_replies(texts, rows, [[policies()[RIGHT]]] * 4)


def test_table_holds_every_wrong_reply_and_no_right_one(frame):
    assert list(frame["id"]) == ["t-1", "t-2", "t-3"]
    assert list(frame["cause"]) == ["format", "label", "invented"]


def test_line_of_the_table_holds_what_a_reader_needs(frame, make_row):
    line = frame.iloc[1]
    assert line["wrong"] == ("product",) and line["context"] == (RIGHT,)
    assert line["ticket"] == make_row()["ticket"] and line["gold"] == dumps(make_row()["reply"])


def test_table_of_no_mistakes_still_has_its_columns(make_row):
    empty = errors.wrong_replies([said(make_row())], [make_row()])
    assert len(empty) == 0 and len(errors.pick(empty, cause="reading")) == 0


def test_causes_are_counted_in_their_order_with_zeros(frame):
    counts = frame["cause"].value_counts(sort=False)
    assert list(counts.index) == list(errors.CAUSES) and counts.sum() == 3


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ({}, ["t-1", "t-2", "t-3"]),
        ({"cause": "label"}, ["t-2"]),
        ({"facet": "terse"}, ["t-1", "t-3"]),
        ({"wrong": "product"}, ["t-1", "t-2"]),
        ({"wrong": "facts", "facet": "terse", "cause": "invented"}, ["t-3"]),
        ({"cause": "label", "facet": "terse"}, []),
    ],
)
def test_filters_narrow_the_table_together(frame, filters, ids):
    assert list(errors.pick(frame, **filters)["id"]) == ids


@pytest.mark.parametrize("filters", [{"cause": "reader"}, {"facet": "loud"}, {"wrong": "resolved"}])
def test_filter_that_does_not_exist_raises(frame, filters):
    with pytest.raises(ValueError, match="does not exist; one of"):
        errors.pick(frame, **filters)


def test_contexts_that_do_not_match_the_tickets_raise(make_row):
    with pytest.raises(ValueError, match="2 contexts for 1 tickets"):
        errors.wrong_replies([""], [make_row()], [[], []])


# --- the audit ---


def test_sixty_replies_and_those_of_the_later_sheets_were_judged_on_every_part():
    count = 60 + sum(sheet.SECOND.values()) + sum(sheet.THIRD.values())
    assert len({(e["method"], e["ticket"], e["reply"]) for e in ENTRIES}) == len(ENTRIES) == count
    assert [e["id"] for e in ENTRIES] == [f"audit-{n:02}" for n in range(1, count + 1)]
    for entry in ENTRIES:
        for verdict in (entry, *([entry["second"]] if "second" in entry else [])):
            assert list(verdict["judged"]) == list(errors.PARTS)
            assert all(isinstance(value, bool) for value in verdict["judged"].values())


def test_audit_holds_judgments_and_no_automatic_score():
    allowed = {
        "id",
        "method",
        "ticket",
        "reply",
        "judged",
        "note",
        "judge",
        "disagreement",
        "second",
    }
    assert [e["id"] for e in ENTRIES if not set(e) <= allowed] == []


def test_audit_covers_the_methods_as_the_rule_says():
    assert Counter(e["method"] for e in ENTRIES[:60]) == sheet.QUOTAS
    assert Counter(e["method"] for e in ENTRIES[60:84]) == sheet.SECOND
    assert Counter(e["method"] for e in ENTRIES[84:]) == sheet.THIRD
    assert [first for _, first in sheet.SHEETS.values()] == [1, 61, 85]


def test_every_third_reply_has_a_second_judge_and_the_two_agree():
    assert ["second" in e for e in ENTRIES] == [n % 3 == 0 for n in range(1, len(ENTRIES) + 1)]
    table = errors.judges()
    assert (table["n"] == 36).all() and (table["agree"] / table["n"] >= 0.9).all()


def test_every_false_judgment_of_free_text_has_its_reason():
    silent = [e["id"] for e in ENTRIES if not e["note"] and not all(e["judged"].values())]
    assert silent == []


def test_every_disagreement_is_explained_and_nothing_else_is():
    for entry in errors.audited():
        differ = {p for p in errors.PARTS if entry["judged"][p] != getattr(entry["score"], p)}
        assert set(entry.get("disagreement", {})) == differ, entry["id"]


def test_score_agrees_with_the_judge():
    table = errors.audit()
    share = table["agree"] / table["n"]
    assert share["format"] >= 0.8  # it reads words, not whether they are whole sentences
    assert share["facts"] >= 0.85  # it reads values, not what is said of them
    assert (table.loc[["triage", "product", "policy"], "kappa"] == 1).all()
    assert table.loc["facts", "kappa"] > 0.7 and table.loc["format", "kappa"] > 0.3
    assert 0.5 < table.loc["facts", "kappa low"] < table.loc["facts", "kappa high"] < 1


def test_audit_counts_both_kinds_of_disagreement():
    table = errors.audit()
    assert (table["agree"] + table["judge stricter"] + table["score stricter"] == table["n"]).all()


def test_what_counts_as_resolved_was_found_wrong_by_its_sentences_in_doubt_or_by_what_is_said_of_a_value():
    plainly = []
    for entry in errors.audited():
        wrong = {part for part, right in entry["judged"].items() if not right}
        if entry["score"].resolved and wrong - {"format"}:
            assert wrong == {"facts"}
            if "Facts doubtful" not in entry["note"]:
                plainly.append(entry["id"])
    # "we will do nothing about it", and the days for posting a key said of replacing the lock
    assert plainly == ["audit-99", "audit-105"]


@pytest.fixture
def replies(make_row):
    rows = [make_row(id=f"t-{i}") for i in range(40)]
    texts = [said(row) if i % 2 else "prose" for i, row in enumerate(rows)]
    return {method: texts for method in sheet.QUOTAS}, rows


def test_choice_is_the_same_for_a_seed_and_another_for_another(replies):
    assert sheet.choose(*replies) == sheet.choose(*replies)
    assert sheet.choose(*replies) != sheet.choose(*replies, seed=1)


def test_choice_takes_half_of_each_kind_and_tells_no_score(replies):
    chosen = sheet.choose(*replies)
    assert all(set(line) == {"id", "method", "ticket", "reply"} for line in chosen)
    assert Counter(line["method"] for line in chosen) == sheet.QUOTAS
    wrong = Counter(line["method"] for line in chosen if line["reply"] == "prose")
    assert all(wrong[method] == quota - quota // 2 for method, quota in sheet.QUOTAS.items())


def test_choice_fills_up_where_one_kind_is_missing(replies):
    texts, rows = replies
    none_right = {method: ["prose"] * len(rows) for method in texts}
    assert Counter(line["method"] for line in sheet.choose(none_right, rows)) == sheet.QUOTAS
