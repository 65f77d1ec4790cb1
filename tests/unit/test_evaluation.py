import json
import socket
import time

import pytest

from helpers import data, evaluation
from helpers.data import KEYS, MAX_WORDS, SIGN_OFF, dumps
from helpers.evaluation import (
    SCORES,
    Score,
    agreement,
    facts_right,
    house_metric,
    in_house_form,
    parse_reply,
    score_all,
    score_reply,
    summary,
)
from helpers.quantities import phones, quantities


@pytest.fixture
def reply(make_row):
    return make_row()["reply"]


def right(text, policy, *asks, version=1):
    return facts_right(text + SIGN_OFF, policy, list(asks), version)


# --- the parser ---


def test_well_formed_reply_parses_to_its_fields(reply):
    assert parse_reply(dumps(reply)) == reply


def test_white_space_around_the_object_is_allowed(reply):
    assert parse_reply(f"\n {dumps(reply)}\n\n") == reply


def test_line_breaks_inside_the_object_are_allowed(reply):
    assert parse_reply(json.dumps(reply, indent=2)) == reply


def test_key_order_does_not_matter(reply):
    assert parse_reply(json.dumps(dict(reversed(reply.items())))) == reply


def test_policy_none_is_a_known_label(reply):
    assert parse_reply(json.dumps({**reply, "policy": "none"})) is not None


@pytest.mark.parametrize(
    "wrap",
    [
        "Here you go: {}",
        "{} Hope this helps!",
        "```json\n{}\n```",
        "```\n{}\n```",
        "[{}]",
        "{0}{0}",
        "{0}\n{0}",
        "{0},",
        "<|im_start|>{}",
        "{}<|im_end|>",
        "\ufeff{}",
        "null{}",
    ],
)
def test_anything_around_the_object_is_refused(reply, wrap):
    assert parse_reply(wrap.format(dumps(reply))) is None


@pytest.mark.parametrize(
    "text", ["", " ", "null", "[]", "{}", "5", "NaN", '"text"', "{", "returns", "\x00", "\ud800"]
)
def test_text_that_is_no_object_is_refused(text):
    assert parse_reply(text) is None


def test_ten_kilobytes_of_prose_are_refused():
    assert parse_reply("The desk will answer. " * 500) is None


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 10_000])
def test_hostile_json_is_refused_without_an_error(text):
    assert parse_reply(text) is None


def test_ten_kilobyte_reply_parses_but_is_not_in_house_form(reply):
    text = json.dumps({**reply, "reply": "The desk answers. " * 600 + SIGN_OFF})
    assert not in_house_form(parse_reply(text))


@pytest.mark.parametrize(("words", "holds"), [(1, True), (MAX_WORDS, True), (MAX_WORDS + 1, False)])
def test_house_form_has_one_to_thirty_words_before_the_sign_off(reply, words, holds):
    text = " ".join(["word"] * words) + SIGN_OFF
    assert in_house_form({**reply, "reply": text}) is holds


def test_truncated_object_is_refused(reply):
    assert [end for end in range(len(dumps(reply))) if parse_reply(dumps(reply)[:end])] == []


@pytest.mark.parametrize("key", KEYS)
def test_missing_key_is_refused(reply, key):
    assert parse_reply(json.dumps({k: v for k, v in reply.items() if k != key})) is None


def test_extra_key_is_refused(reply):
    assert parse_reply(json.dumps({**reply, "confidence": "high"})) is None


@pytest.mark.parametrize("key", KEYS)
def test_duplicate_key_is_refused_even_with_the_same_value(reply, key):
    assert parse_reply(dumps(reply)[:-1] + f', "{key}": {json.dumps(reply[key])}}}') is None


def test_key_in_the_wrong_case_is_refused(reply):
    assert parse_reply(dumps(reply).replace('"intent"', '"Intent"')) is None


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", "1", "null", "true", "[]", '["returns"]', '{"a": "b"}']
)
def test_value_of_another_type_is_refused(reply, key, value):
    assert parse_reply(dumps(reply).replace(json.dumps(reply[key]), value)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"intent": "refunds"},
        {"intent": "Returns"},
        {"intent": " returns"},
        {"priority": "medium"},
        {"product": "fern 2"},
        {"product": "Fern 4"},
        {"product": "None"},
        {"policy": "RET-99"},
        {"policy": "ret-1"},
        {"policy": "RET-1 "},
    ],
)
def test_unknown_label_parses_but_is_not_in_house_form(reply, change):
    assert not in_house_form(parse_reply(json.dumps({**reply, **change})))


@pytest.mark.parametrize("key", KEYS)
def test_empty_value_is_not_in_house_form(reply, key):
    assert not in_house_form({**reply, key: ""})


def test_good_reply_is_in_house_form(reply):
    assert in_house_form(reply)


@pytest.mark.parametrize(
    "text",
    [
        "45 days.",
        SIGN_OFF,
        "   " + SIGN_OFF,
        SIGN_OFF.strip(),
        "45 days. - Bramble desk.",
        "45 days. - Bramble desk ",
        "45 days. - Bramble desk\n",
        "45 days. - bramble desk",
        "45 days. \u2013 Bramble desk",
        "45 days. \u2014 Bramble desk",
        "45 days. \u2212 Bramble desk",
        "45 days. -\u00a0Bramble desk",
        "45 days.- Bramble desk",
        "45 days. - Br\u0430mble desk",
        "45 days. - Bramble desk - Bramble",
    ],
)
def test_reply_without_text_and_exact_sign_off_is_not_in_house_form(reply, text):
    assert not in_house_form(parse_reply(json.dumps({**reply, "reply": text})))


@pytest.mark.parametrize(
    "change",
    [
        {"intent": "r\u0435turns"},  # a Cyrillic e
        {"intent": "returns\u200b"},  # a space of no width
        {"priority": "n\u043ermal"},
        {"product": "Fern\u00a02"},
        {"product": "Fern \uff12"},  # a full-width 2
        {"policy": "RET\u20111"},  # a hyphen that does not break
        {"policy": "\u0420ET-1"},
    ],
)
def test_label_that_only_looks_known_is_not_in_house_form(reply, change):
    assert not in_house_form(parse_reply(json.dumps({**reply, **change})))


def test_key_with_a_look_alike_letter_is_an_extra_key(reply):
    assert parse_reply(dumps(reply).replace('"policy"', '"p\u043elicy"')) is None


def test_duplicate_key_in_another_spelling_is_still_the_same_key(reply):
    assert parse_reply(dumps(reply)[:-1] + ', "\\u0070olicy": "RET-2"}') is None


@pytest.mark.parametrize("size", [10_000, 100_000])
def test_reply_of_any_length_is_scored_in_good_time(make_row, size):
    unit = "45 days or 14 EUR, not 0800 555 0142 "
    for text in (unit * (size // len(unit)), "1,234" * (size // 5), "0" * size):
        started = time.process_time()
        score = score_reply(json.dumps({**make_row()["reply"], "reply": text}), make_row())
        assert not score.format and time.process_time() - started < size / 5_000


# --- scoring ---


def test_gold_reply_is_right_on_every_field(make_row):
    assert score_reply(dumps(make_row()["reply"]), make_row()) == Score(
        True, True, True, True, True
    )


@pytest.mark.parametrize("text", ["", "45 days", "```json\n{}\n```"])
def test_unparseable_reply_scores_zero_on_every_field(make_row, text):
    score = score_reply(text, make_row())
    assert [name for name in SCORES if getattr(score, name)] == []


@pytest.mark.parametrize(
    "change, wrong",
    [
        ({"intent": "delivery"}, "triage"),
        ({"priority": "urgent"}, "triage"),
        ({"product": "none"}, "product"),
        ({"policy": "RET-2"}, "policy"),
        ({"policy": "none"}, "policy"),
        ({"reply": "14 days. - Bramble desk"}, "facts"),
        ({"reply": "You can return it within 45 days of delivery."}, "format"),
    ],
)
def test_one_wrong_field_costs_that_score_and_resolved_only(make_row, change, wrong):
    score = score_reply(json.dumps({**make_row()["reply"], **change}), make_row())
    assert {name for name in SCORES if not getattr(score, name)} == {wrong, "resolved"}


def test_unknown_label_costs_the_format_and_its_own_field_only(make_row):
    score = score_reply(json.dumps({**make_row()["reply"], "product": "motor"}), make_row())
    assert {name for name in SCORES if not getattr(score, name)} == {
        *("format", "product", "resolved")
    }


@pytest.mark.parametrize("missing", ["format", "triage", "product", "policy", "facts"])
def test_resolved_needs_every_part(missing):
    parts = dict.fromkeys(["format", "triage", "product", "policy", "facts"], True)
    assert Score(**parts).resolved
    assert not Score(**{**parts, missing: False}).resolved


def test_score_all_keeps_the_order(make_row):
    scores = score_all(["", dumps(make_row()["reply"])], [make_row(), make_row()])
    assert [score.resolved for score in scores] == [False, True]


@pytest.mark.parametrize("replies, rows", [(1, 2), (2, 1), (0, 1), (1, 0)])
def test_replies_that_do_not_match_the_tickets_raise(make_row, replies, rows):
    with pytest.raises(ValueError, match=f"{replies} replies for {rows} tickets"):
        score_all([""] * replies, [make_row()] * rows)


def test_score_all_passes_the_version_on(make_row):
    row = make_row()
    row["reply"]["reply"] = "30 days. - Bramble desk"
    texts = [dumps(row["reply"])]
    assert [score_all(texts, [row], version)[0].facts for version in (1, 2)] == [False, True]


# --- quantities ---


@pytest.mark.parametrize(
    "text, found",
    [
        ("45 days", ("45", "day")),
        ("1 day", ("1", "day")),
        ("45 Days.", ("45", "day")),
        ("a 45-day window", ("45", "day")),
        ("45\u00a0days", ("45", "day")),
        ("10 working days", ("10", "working day")),
        ("10 business days", ("10", "working day")),
        ("a 2-month term", ("2", "month")),
        ("8 weeks", ("8", "week")),
        ("15 seconds", ("15", "second")),
        ("700 cycles", ("700", "charge cycle")),
        ("700 charge cycles", ("700", "charge cycle")),
        ("6 wrong tries", ("6", "try")),
        ("3 tries", ("3", "try")),
        ("1 wrong try", ("1", "try")),
        ("2 attempts", ("2", "attempt")),
        ("2 children", ("2", "child")),
        ("1 child", ("1", "child")),
        ("4 phones", ("4", "phone")),
        ("12 instalments", ("12", "instalment")),
        ("60 EUR", ("60", "EUR")),
        ("60 euros", ("60", "EUR")),
        ("60 Euro", ("60", "EUR")),
        ("60EUR", ("60", "EUR")),
        ("€60", ("60", "EUR")),
        ("€ 60", ("60", "EUR")),
        ("60 €", ("60", "EUR")),
        ("1,000 EUR", ("1000", "EUR")),
        ("1000 EUR", ("1000", "EUR")),
        ("€1,000", ("1000", "EUR")),
        ("60.50 EUR", ("60.50", "EUR")),
        ("20,000 km", ("20000", "km")),
        ("1,234,567 km", ("1234567", "km")),
        ("25 km/h", ("25", "km/h")),
        ("10 m away", ("10", "m")),
        ("10 minutes", ("10", "minute")),
        ("135 kg", ("135", "kg")),
        ("70 %", ("70", "%")),
        ("70%", ("70", "%")),
        ("70 percent", ("70", "%")),
        ("5 °C", ("5", "°C")),
        ("5°C", ("5", "°C")),
        ("minus 5 °C", ("-5", "°C")),
        ("minus 40 EUR", ("40", "EUR")),
        ("18:00", ("18:00", "clock")),
        ("twelve instalments", ("12", "instalment")),
        ("Two working days", ("2", "working day")),
        ("a ten-day wait", ("10", "day")),
        ("42", ("42", "")),
        ("500 Wh", ("500", "Wh")),
    ],
)
def test_quantity_is_read_with_its_unit(text, found):
    assert quantities(text) == {found}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no figures here",
        "FK7",
        "RET-",
        "Call 0800 555 0142.",
        "0800-555-0142",
        "08005550142",
        "one of them",
        "two bikes",
    ],
)
def test_text_without_a_quantity_gives_none(text):
    assert quantities(text) == set()


def test_every_quantity_of_a_text_is_found():
    found = {("45", "day"), ("60", "EUR"), ("18:00", "clock")}
    assert quantities("Within 45 days, for €60, by 18:00 on 0800 555 0142.") == found


@pytest.mark.parametrize(
    "a, b",
    [
        ("5 working days", "5 days"),
        ("10 m", "10 minutes"),
        ("25 km", "25 km/h"),
        ("18:00", "18 EUR"),
    ],
)
def test_lookalike_units_stay_apart(a, b):
    assert quantities(a).isdisjoint(quantities(b))


@pytest.mark.parametrize("text", ["One moment please", "one more thing", "one member of our team"])
def test_number_word_before_a_word_that_only_starts_like_a_unit_is_no_quantity(text):
    assert quantities(text) == set()


@pytest.mark.parametrize(
    "text, found",
    [
        ("EUR 60", ("60", "EUR")),
        ("10 metres", ("10", "m")),
        ("50 kilometres", ("50", "km")),
        ("70 per cent", ("70", "%")),
        ("3 working-days", ("3", "working day")),
        ("167 cm", ("167", "cm")),
    ],
)
def test_other_common_spelling_of_a_unit_is_read(text, found):
    assert quantities(text) == {found}


def test_minus_sign_is_part_of_a_temperature():
    assert quantities("-5 °C") != quantities("5 °C")


# --- facts ---


def test_right_value_is_right():
    assert right("You have 45 days.", "RET-1", "return_window")


def test_value_in_other_words_is_right():
    assert right("€60 is kept back.", "RET-2", "return_fee")


@pytest.mark.parametrize(
    "text",
    [
        "Yes, you can.",
        "You have 45 weeks.",
        "You have 45.",
        "You have 45 working days.",
        "You have 45 EUR.",
        "145 days.",
        "4 5 days.",
    ],
)
def test_missing_value_or_wrong_unit_is_wrong(text):
    assert not right(text, "RET-1", "return_window")


def test_right_value_beside_another_sections_is_wrong():
    assert not right("You have 45 days, or 14 days in a store.", "RET-1", "return_window")


@pytest.mark.parametrize(
    "text", ["14 or 45 days.", "14 to 45 days.", "14-45 days.", "Between 14 and 45 days."]
)
def test_right_value_that_shares_its_unit_with_a_wrong_one_is_wrong(text):
    assert not right(text, "RET-1", "return_window")


@pytest.mark.parametrize("text", ["It is not 45 days.", "It isn\u2019t 45 days.", "Never 45 days."])
def test_negated_quantity_does_not_hold_the_value(text):
    assert not right(text, "RET-1", "return_window")


@pytest.mark.parametrize(
    "text",
    [
        "You do not have 45 days.",
        "You don't get 45 days.",
        "You cannot have the 45 days.",
        "You never had more, you will not have 45 days.",
    ],
)
def test_quantity_negated_with_its_verb_does_not_hold_the_value(text):
    assert not right(text, "RET-1", "return_window")


@pytest.mark.parametrize(
    "verb", ["be", "have", "get", "take", "last", "cost", "need", "pay", "offer", "charge"]
)
def test_quantity_denied_by_its_verb_is_not_stated(verb):
    assert quantities(f"We will not {verb} 45 days.", negated=False) == set()


@pytest.mark.parametrize(
    "text",
    [
        "It cannot come back after 45 days.",
        "It does not go beyond 45 days.",
        "If you do not like it, you have 45 days.",
        "Not in a hurry: 45 days.",
    ],
)
def test_not_elsewhere_in_the_sentence_leaves_the_value_stated(text):
    assert right(text, "RET-1", "return_window")


@pytest.mark.parametrize("text", ["45 days is wrong.", "45 days? No.", "It isn't within 45 days."])
def test_known_limit_a_denial_behind_or_far_before_the_value_is_not_read(text):
    """The score reads values, not meaning. If this fails the score has become better: say so in the data card."""
    assert right(text, "RET-1", "return_window")


@pytest.mark.parametrize(
    "text",
    [
        "\uff14\uff15 days",  # full-width digits
        "\u0664\u0665 days",  # Arabic-Indic digits
        "4\u200b5 days",
        "45 d\u0430ys",  # a Cyrillic a
        "45\u00b2 days",
        "45\u00bd days",
        "4S days",
        "NaN days",
        "45e1 days",
        "0x45 days",
        "045 days",
        "45.5 days",
        "45,000 days",
        "45 000 days",
        "45:00 days",
        "45/46 days",
        "45\u201314 days",
        "45\u201414 days",
    ],
)
def test_number_that_only_looks_like_the_value_is_wrong(text):
    assert not right(text, "RET-1", "return_window")


@pytest.mark.parametrize("text", ["\uff12 days", "\u0662 days", "two\u00a0days", "\u20ac\u00a020"])
def test_figure_in_another_script_is_still_made_up_outside_the_handbook(text):
    assert not right(f"A colleague answers: {text}.", "none")


def test_colleague_in_look_alike_letters_is_no_colleague():
    assert not right("A coll\u0435ague will look into it.", "none")


@pytest.mark.parametrize("text", ["Call 0800 555 \uff10142.", "Call 0800 555 O142."])
def test_phone_number_in_look_alike_digits_is_wrong(text):
    assert not right(text, "REP-5", "mobile_phone")


def test_phone_number_is_no_quantity_and_a_quantity_no_phone_number():
    assert quantities("Call 0800 555 0142.") == set() and phones("1,234,567 km") == set()


def test_no_longer_than_a_quantity_states_it():
    assert right("Wait no longer than 45 days.", "RET-1", "return_window")


def test_oxford_comma_between_the_countries_is_right():
    assert right("Only Austria, Belgium, and Denmark.", "DEL-4", "countries")


def test_made_up_phone_number_is_wrong_whatever_was_asked():
    assert not right("You have 45 days; call 0800 555 0142.", "RET-1", "return_window")


def test_phone_number_of_the_section_is_allowed_unasked():
    assert right("The fee is 35 EUR; call 0800 555 0142.", "REP-5", "callout_fee")


def test_wrong_value_in_number_words_is_seen():
    assert not right("You have 45 days, or seven days.", "RET-1", "return_window")


def test_another_fact_of_the_same_section_is_allowed():
    assert right("Standard charger 5 hours, fast charger 3 hours.", "BAT-1", "charge_time")


def test_figure_of_another_kind_is_allowed():
    assert right("You have 45 days and 3 keys to bring.", "RET-1", "return_window")


def test_every_value_asked_for_must_be_there():
    asks = ("return_window", "ride_limit")
    assert right("45 days and 50 km.", "RET-1", *asks)
    assert not right("45 days.", "RET-1", *asks)
    assert not right("50 km.", "RET-1", *asks)


def test_thousands_comma_does_not_matter():
    assert right("Up to 1000 EUR.", "PAY-1", "cash_limit")
    assert not right("Up to 1 EUR.", "PAY-1", "cash_limit")


def test_clock_time_must_match_to_the_minute():
    assert right("By 18:00.", "REN-5", "return_time")
    assert not right("By 18:30.", "REN-5", "return_time")


@pytest.mark.parametrize("text", ["It is free.", "It comes at no cost.", "No charge at all."])
def test_textual_value_or_an_accepted_wording_is_right(text):
    assert right(text, "REP-1", "first_service_price")


@pytest.mark.parametrize(
    "text",
    ["It is not free.", "It isn't free.", "It is no longer free.", "It is never free.", "Freedom!"],
)
def test_negated_or_missing_textual_value_is_wrong(text):
    assert not right(text, "REP-1", "first_service_price")


def test_negation_with_a_curly_apostrophe_counts():
    assert not right("It isn\u2019t free.", "REP-1", "first_service_price")


def test_accepted_wording_with_a_curly_apostrophe_is_right():
    assert right("Brake pads aren\u2019t covered.", "WAR-4", "wear_cover")


def test_textual_value_with_its_own_not_is_right_and_its_contrary_wrong():
    assert right("They are not covered.", "WAR-4", "wear_cover")
    assert not right("They are covered.", "WAR-4", "wear_cover")


def test_negated_wording_after_a_plain_one_does_not_undo_it():
    assert right("It is free, not nearly free but free.", "REP-1", "first_service_price")


@pytest.mark.parametrize(
    "text", ["It is free, or 20 EUR.", "20 EUR, and the bus is free.", "Free within 9 minutes."]
)
def test_made_up_figure_beside_a_textual_value_is_wrong(text):
    assert not right(text, "REP-1", "first_service_price")


def test_figure_of_the_section_beside_a_textual_value_is_right():
    assert right("Not refunded; the rest within 10 working days.", "RET-5", "shipping_refund")


@pytest.mark.parametrize(
    "text, policy, key",
    [
        ("They are not covered. They are covered.", "WAR-4", "wear_cover"),
        ("Only Austria, Belgium, and Denmark, and France.", "DEL-4", "countries"),
    ],
)
def test_known_limit_words_that_take_a_textual_value_back_are_not_read(text, policy, key):
    """The contrary may be said of another thing ("the jacket can be returned, a helmet cannot be returned"), and no list
    of all countries is kept. If this fails the score has become better: say so in the data card."""
    assert right(text, policy, key)


def test_textual_value_ignores_case_and_line_breaks():
    assert right("AT OUR\nexpense.", "SAF-2", "collection_cost")


@pytest.mark.parametrize(
    "text", ["recycle@bramble.com", "myrecycle@bramble.example", "recycle at bramble.example"]
)
def test_wrong_mail_address_is_wrong(text):
    assert right("Write to recycle@bramble.example.", "BAT-7", "recycling_mail")
    assert not right(text, "BAT-7", "recycling_mail")


def test_mail_address_with_a_longer_domain_is_wrong():
    assert not right("Write to recycle@bramble.example.com", "BAT-7", "recycling_mail")


def test_second_mail_address_beside_the_right_one_is_wrong():
    assert not right("recycle@bramble.example or trash@bramble.example", "BAT-7", "recycling_mail")


def test_frame_size_beside_a_made_up_one_is_wrong():
    assert not right("From 167 cm, or 190 cm.", "ORD-5", "size_m_from")


def test_temperature_with_the_wrong_sign_is_wrong():
    assert not right("Never store it below -5 °C.", "BAT-3", "storage_temperature")


def test_updated_handbook_wants_the_new_value_and_refuses_the_old():
    asked = ("RET-1", "return_window")
    assert right("30 days.", *asked, version=2)
    assert not right("45 days.", *asked, version=2)
    assert not right("30 days.", *asked, version=1)


def test_old_value_beside_the_new_one_is_wrong_after_the_update():
    assert not right("30 days, once 45 days.", "RET-1", "return_window", version=2)


def test_fact_that_did_not_change_stays_right_after_the_update():
    assert right("50 km.", "RET-1", "ride_limit", version=2)


@pytest.mark.parametrize(
    "text", ["Call 0800 555 0142.", "Call 0800-555-0142.", "Call 08005550142."]
)
def test_right_phone_number_in_any_grouping_is_right(text):
    assert right(text, "REP-5", "mobile_phone")


@pytest.mark.parametrize(
    "text",
    [
        "Call 0800 555 0143.",
        "Call 0800 555 014.",
        "Call 0800 555 01422.",
        "Call 800 555 0142.",
        "Call us.",
        "0800 555 0177",
    ],
)
def test_phone_number_one_digit_off_is_wrong(text):
    assert not right(text, "REP-5", "mobile_phone")


def test_second_phone_number_beside_the_right_one_is_wrong():
    assert not right("Call 0800 555 0142 or 0800 555 0177.", "REP-5", "mobile_phone")


def test_second_phone_number_with_another_prefix_is_wrong():
    assert not right("Call 0800 555 0142 or 0900 555 0177.", "REP-5", "mobile_phone")


def test_right_phone_number_said_twice_in_two_groupings_is_right():
    assert right("Call 0800 555 0142 (0800-555-0142).", "REP-5", "mobile_phone")


@pytest.mark.parametrize("text", ["A colleague will look into it.", "Our COLLEAGUES answer soon."])
def test_outside_the_handbook_a_colleague_is_enough(text):
    assert right(text, "none")


@pytest.mark.parametrize(
    "text",
    [
        "We will look into it.",
        "A colleague answers within 2 days.",
        "A colleague answers within two days.",
        "A colleague will charge €20.",
        "A colleague is there until 18:00.",
        "Ask a colleague on 0800 555 0142.",
        "Ask a colleague on 0800-999-9999.",
        "Ask a colleague on 0123 456789.",
        "A colleague has 7.",
    ],
)
def test_outside_the_handbook_silence_or_a_made_up_figure_is_wrong(text):
    assert not right(text, "none")


@pytest.mark.parametrize(
    "text",
    ["One moment, a colleague will look into it.", "A colleague will ask one more question."],
)
def test_outside_the_handbook_a_number_word_that_counts_nothing_is_no_figure(text):
    assert right(text, "none")


@pytest.mark.parametrize("name", ["Fern 2", "Fern 3", "fern 3", "FERN 2", "Fern2"])
def test_digit_of_a_product_name_is_no_figure(name):
    assert right(f"A colleague will look at your {name}.", "none")


def test_digit_of_a_product_name_does_not_answer_the_question():
    assert not right("Your Fern 2 children's seats are fine.", "REN-3", "child_seats")


def test_summary_gives_each_score_its_own_rate():
    rates = summary(
        [
            Score(True, True, True, True, True),
            Score(format=True, triage=True),
            Score(format=True),
            Score(),
        ]
    )
    assert {name: value["value"] for name, value in rates.items()} == {
        "format": 0.75,
        "triage": 0.5,
        "product": 0.25,
        "policy": 0.25,
        "facts": 0.25,
        "resolved": 0.25,
    }


# --- agreement ---


def test_identical_answers_agree_fully(reply):
    assert agreement([dumps(reply)] * 4) == 1.0


def test_unparseable_answers_agree_with_nothing_not_even_themselves():
    assert agreement(["no JSON"] * 3) == 0.0


def test_one_unparseable_answer_costs_its_pairs(reply):
    assert agreement([dumps(reply), dumps(reply), ""]) == pytest.approx(1 / 3)


def test_other_wording_with_the_same_figure_agrees(reply):
    assert agreement([dumps(reply), dumps({**reply, "reply": "It is 45 days." + SIGN_OFF})]) == 1.0


@pytest.mark.parametrize(
    "change", [{"priority": "low"}, {"policy": "RET-2"}, {"reply": "14 days." + SIGN_OFF}]
)
def test_other_label_or_figure_disagrees(reply, change):
    assert agreement([dumps(reply), dumps({**reply, **change})]) == 0.0


def test_digit_of_a_product_name_is_no_disagreement(reply):
    reply["product"] = "Fern 2"
    texts = [
        f"{subject} can come back within 45 days.{SIGN_OFF}" for subject in ("It", "The Fern 2")
    ]
    assert agreement([dumps({**reply, "reply": text}) for text in texts]) == 1.0


# --- figures that nobody asked for ---


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("You have 45 days.", set()),
        ("You have 45 days, and less than 50 km.", {("50", "km")}),
        ("You have 45 days and 3 tries.", {("3", "try")}),  # made up counts, too
        ("The Fern 2 may come back within 45 days.", set()),
        ("I do not know.", set()),
    ],
)
def test_a_figure_is_unasked_if_no_asked_fact_holds_it(make_row, text, found):
    assert evaluation.unasked(text + SIGN_OFF, make_row()) == found


def test_a_figure_of_the_ticket_may_be_repeated(make_row):
    row = make_row() | {"ticket": "I rode it 50 km. How long do I have?"}
    assert evaluation.unasked("45 days, and 50 km is fine." + SIGN_OFF, row) == set()


def test_the_asked_value_is_that_of_the_handbook_in_force(make_row):
    assert evaluation.unasked("30 days." + SIGN_OFF, make_row(), version=2) == set()
    assert evaluation.unasked("45 days." + SIGN_OFF, make_row(), version=2) == {("45", "day")}


def test_no_house_reply_of_the_test_states_a_figure_that_nobody_asked_for():
    rows = [row for row in data.tickets("test") if row["asks"]]
    assert not {row["id"] for row in rows if evaluation.unasked(row["reply"]["reply"], row)}


# --- the metric ---


@pytest.fixture
def answers(make_row):
    wrong = {**make_row()["reply"], "reply": "14 days." + SIGN_OFF}
    return [dumps(make_row()["reply"]), dumps(wrong), "not JSON"], [make_row() for _ in range(3)]


def test_house_metric_equals_the_summary(answers):
    texts, rows = answers
    values = house_metric().compute(predictions=texts, references=[json.dumps(row) for row in rows])
    assert values == {name: rate["value"] for name, rate in summary(score_all(texts, rows)).items()}


def test_house_metric_knows_the_updated_handbook(make_row):
    text = dumps({**make_row()["reply"], "reply": "30 days." + SIGN_OFF})
    assert (
        house_metric(2).compute(predictions=[text], references=[json.dumps(make_row())])["facts"]
        == 1.0
    )


def test_house_metric_needs_no_network(answers, monkeypatch):
    import evaluate

    def refuse(*args, **kwargs):
        raise AssertionError("the metric went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(evaluate, "load", refuse)
    texts, rows = answers
    values = house_metric().compute(predictions=texts, references=[json.dumps(row) for row in rows])
    assert set(values) == set(evaluation.SCORES)
