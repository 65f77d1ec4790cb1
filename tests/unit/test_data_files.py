import difflib
import hashlib
import importlib.util
import json
import random
import re
from collections import Counter, defaultdict
from itertools import chain, combinations

import pytest

from helpers.data import (
    FACETS,
    PRODUCTS,
    SPLITS,
    data_dir,
    dumps,
    facts,
    handbook,
    masked,
    near_copies,
    policies,
    priority_of,
    tickets,
)
from helpers.evaluation import score_all

TEST_SHA256 = "6e5275b5a4bd7fb1b9fcf46d52ce496e321dbd691a923f7307e5b0aad5fbe9e0"


@pytest.fixture(scope="module")
def splits():
    return {split: tickets(split) for split in SPLITS}


@pytest.fixture(scope="module")
def phrasings():
    lines = (data_dir() / "tickets" / "phrasings.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def stands_in(value, text):
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.I) is not None


def policy_counts(rows):
    return Counter(row["reply"]["policy"] for row in rows)


# --- handbook and facts ---


def test_at_least_60_sections():
    assert len(policies()) >= 60


def test_no_section_code_is_used_twice():
    assert len(policies()) == len(handbook())


def test_about_ten_chapters():
    assert 9 <= len({section.intent for section in handbook()}) <= 11


def test_every_section_has_25_to_60_words():
    assert [s.policy for s in handbook() if not 25 <= len(s.text.split()) <= 60] == []


def test_every_section_has_a_code_and_a_title():
    assert [
        s for s in handbook() if not re.fullmatch(r"[A-Z]{3}-\d", s.policy) or not s.title
    ] == []


def test_every_section_has_one_to_three_facts():
    counts = Counter(fact.policy for fact in facts())
    assert [policy for policy in policies() if not 1 <= counts[policy] <= 3] == []


def test_every_fact_is_of_a_known_section():
    assert {fact.policy for fact in facts()} <= set(policies())


def test_every_value_stands_literally_in_its_section():
    assert [f for f in facts() if not stands_in(f.value, policies()[f.policy].text)] == []


def test_every_new_value_stands_literally_in_the_updated_section():
    texts = {section.policy: section.text for section in handbook(2)}
    changed = [fact for fact in facts() if fact.value_v2]
    assert [f for f in changed if not stands_in(f.value_v2, texts[f.policy])] == []


def test_every_value_to_update_stands_once_in_its_section():
    changing = [fact for fact in facts() if fact.value_v2]
    assert [f for f in changing if policies()[f.policy].text.count(f.value) != 1] == []


def test_at_least_20_facts_change_in_the_update():
    assert sum(fact.value_v2 not in (None, fact.value) for fact in facts()) >= 20


def test_every_policy_and_key_is_unique():
    assert [pair for pair, n in Counter((f.policy, f.key) for f in facts()).items() if n > 1] == []


def neighbours():
    """For each chapter and key, the facts of that key, where two or more sections have one."""
    groups = defaultdict(list)
    for fact in facts():
        groups[policies()[fact.policy].intent, fact.key].append(fact)
    return {name: group for name, group in groups.items() if len(group) > 1}


def test_at_least_15_facts_share_their_key_with_a_section_of_the_same_chapter():
    assert sum(map(len, neighbours().values())) >= 15


def test_confusable_neighbours_hold_different_values():
    pairs = chain.from_iterable(combinations(group, 2) for group in neighbours().values())
    assert [(a.policy, b.policy) for a, b in pairs if a.value == b.value] == []


# --- splits ---


@pytest.mark.parametrize("split, least", [("train", 900), ("validation", 120), ("test", 240)])
def test_split_has_enough_rows(splits, split, least):
    assert len(splits[split]) >= least


def test_ids_are_unique_over_all_splits(splits):
    ids = Counter(row["id"] for rows in splits.values() for row in rows)
    assert [name for name, n in ids.items() if n > 1] == []


def test_at_least_600_phrasings_stay_distinct_after_masking(phrasings):
    assert len({masked(re.sub(r"\{\w+\}", "", row["ticket"])) for row in phrasings}) >= 600


def test_at_least_10_phrasings_for_each_section(phrasings):
    distinct = {(row["policy"], masked(re.sub(r"\{\w+\}", "", row["ticket"]))) for row in phrasings}
    counts = Counter(policy for policy, _ in distinct)
    assert [policy for policy in policies() if counts[policy] < 10] == []


def test_every_section_is_tested_at_least_three_times(splits):
    counts = policy_counts(splits["test"])
    assert [policy for policy in policies() if counts[policy] < 3] == []


def test_at_least_30_test_tickets_lie_outside_the_handbook(splits):
    assert policy_counts(splits["test"])["none"] >= 30


@pytest.mark.parametrize("split", SPLITS)
def test_about_one_ticket_in_eight_lies_outside_the_handbook(splits, split):
    assert 0.08 <= policy_counts(splits[split])["none"] / len(splits[split]) <= 0.20


@pytest.mark.parametrize("split", SPLITS)
def test_no_intent_is_rarer_than_four_percent(splits, split):
    counts = Counter(row["reply"]["intent"] for row in splits[split])
    intents = {section.intent for section in handbook()} | {"other"}
    assert [intent for intent in intents if counts[intent] / len(splits[split]) < 0.04] == []


def test_each_policy_has_one_intent_and_priority_everywhere(splits):
    labels = defaultdict(set)
    for reply in (row["reply"] for rows in splits.values() for row in rows):
        labels[reply["policy"]].add((reply["intent"], reply["priority"]))
    assert {policy: found for policy, found in labels.items() if len(found) > 1} == {}


def test_intent_is_the_chapter_of_the_policy(splits):
    chapters = {"none": "other", **{section.policy: section.intent for section in handbook()}}
    replies = [row["reply"] for rows in splits.values() for row in rows]
    assert [reply for reply in replies if reply["intent"] != chapters[reply["policy"]]] == []


def test_priority_is_the_one_of_the_policy(splits):
    replies = [row["reply"] for rows in splits.values() for row in rows]
    assert [reply for reply in replies if reply["priority"] != priority_of(reply["policy"])] == []


def test_every_ticket_inside_the_handbook_asks_a_fact(splits):
    rows = [row for split in SPLITS for row in splits[split]]
    assert [
        row["id"] for row in rows if bool(row["asks"]) == (row["reply"]["policy"] == "none")
    ] == []


@pytest.mark.parametrize("split", SPLITS)
def test_every_gold_reply_is_resolved(splits, split):
    rows = splits[split]
    scores = score_all([dumps(row["reply"]) for row in rows], rows)
    assert [row["id"] for row, score in zip(rows, scores, strict=True) if not score.resolved] == []


def test_no_test_ticket_gives_its_own_answer_away(splits):
    values = {(fact.policy, fact.key): fact.value for fact in facts()}
    told = [
        row["id"]
        for row in splits["test"]
        for key in row["asks"]
        if stands_in(values[row["reply"]["policy"], key], row["ticket"])
    ]
    assert told == []


# --- leakage ---


@pytest.mark.parametrize(
    "split, against", [("test", "train"), ("validation", "train"), ("test", "validation")]
)
def test_no_near_copies_between_splits(splits, split, against):
    assert near_copies(splits[split], splits[against], 0.5) == []


@pytest.mark.parametrize("a, b", list(combinations(SPLITS, 2)))
def test_no_masked_ticket_is_in_two_splits(splits, a, b):
    shared = {masked(row["ticket"]) for row in splits[a]} & {
        masked(row["ticket"]) for row in splits[b]
    }
    assert shared == set()


# --- frozen and made files ---


@pytest.fixture(scope="module")
def make_train():
    spec = importlib.util.spec_from_file_location("make_train", data_dir() / "make_train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_misspelt_product_is_still_nearest_to_itself(make_train):
    for product in PRODUCTS[:-1]:
        for seed in range(60):
            said = make_train.misspelt(product, random.Random(seed))
            alike = difflib.get_close_matches(
                said.lower(), [p.lower() for p in PRODUCTS[:-1]], n=1, cutoff=0.6
            )
            assert alike == [product.lower()], said


def test_training_file_is_what_make_train_makes(make_train):
    shipped = (data_dir() / "tickets" / "train.jsonl").read_bytes().replace(b"\r\n", b"\n")
    # Compared by hash: a diff of a thousand lines would take pytest minutes.
    assert (
        hashlib.sha256(make_train.make().encode()).hexdigest()
        == hashlib.sha256(shipped).hexdigest()
    )


def test_the_data_card_counts_the_facets_as_they_are(splits):
    card = (data_dir() / "README.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `([a-z-]+)` \| (\d+ \| \d+ \| \d+) \|$", card, re.M))
    counts = {split: Counter(f for row in splits[split] for f in row["facets"]) for split in SPLITS}
    found = {facet: " | ".join(str(counts[s][facet]) for s in SPLITS) for facet in FACETS}
    assert told == found


def test_test_file_is_frozen():
    raw = (data_dir() / "tickets" / "test.jsonl").read_bytes().replace(b"\r\n", b"\n")
    assert hashlib.sha256(raw).hexdigest() == TEST_SHA256
