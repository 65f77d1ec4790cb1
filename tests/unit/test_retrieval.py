import numpy as np
import pytest

from helpers import data, methods, retrieval


@pytest.fixture(scope="module")
def learned():
    return retrieval.default_retriever()


@pytest.fixture(scope="module")
def inside():
    return [row for row in data.tickets("test") if row["asks"]]


def test_ranks_are_one_for_the_best_and_ties_keep_their_order():
    assert retrieval.ranks(np.array([[0.1, 0.9, 0.1]])).tolist() == [[2, 1, 3]]


def test_recall_and_mrr_by_hand():
    gold = np.array([1, 2, 4])
    assert retrieval.recall_at_k(gold, 1) == pytest.approx(1 / 3)
    assert retrieval.recall_at_k(gold, 3) == pytest.approx(2 / 3)
    assert retrieval.mrr(gold) == pytest.approx((1 + 1 / 2 + 1 / 4) / 3)


def test_one_ticket_is_encoded_alone_as_it_is_in_a_batch(inside):
    texts = [row["ticket"] for row in inside[:5]]
    alone = np.stack([retrieval.encode_one(text) for text in texts])
    assert (alone * retrieval.encode(texts)).sum(1).min() > 0.999
    assert np.allclose(np.linalg.norm(alone, axis=1), 1, atol=1e-5)


def test_fusion_is_the_sum_of_reciprocal_ranks():
    class Fixed:
        sections = ()

        def __init__(self, scores):
            self.fixed = np.array([scores])

        def scores(self, tickets):
            return self.fixed

    fused = retrieval.Hybrid(Fixed([3.0, 2.0, 1.0]), Fixed([1.0, 3.0, 2.0]), k=60).scores(["x"])[0]
    assert fused == pytest.approx([1 / 61 + 1 / 63, 1 / 62 + 1 / 61, 1 / 63 + 1 / 62])


@pytest.mark.parametrize("kind", [retrieval.BM25, retrieval.Dense])
def test_a_section_is_found_by_its_own_words(kind):
    sections = data.handbook()
    scores = kind(sections).scores([sections[5].text, sections[40].text])
    assert scores.shape == (2, len(sections))
    assert scores.argmax(axis=1).tolist() == [5, 40]


def test_the_default_retriever_brings_the_right_section_among_three(learned, inside):
    gold = retrieval.gold_ranks(
        learned.scores([row["ticket"] for row in inside]), inside, learned.sections
    )
    assert retrieval.recall_at_k(gold, 3) >= 0.90


def test_a_training_ticket_is_scored_by_a_model_that_has_not_seen_it(learned):
    rows = [row for row in data.tickets("train") if row["asks"]]
    seen = retrieval.gold_ranks(
        learned.scores([row["ticket"] for row in rows]), rows, learned.sections
    )
    unseen = retrieval.gold_ranks(learned.scores_unseen(rows), rows, learned.sections)
    assert retrieval.recall_at_k(seen, 1) > retrieval.recall_at_k(unseen, 1) + 0.1


def test_scoring_a_strange_row_as_unseen_is_refused(learned):
    with pytest.raises(KeyError):
        learned.unseen([{"id": "nobody", "ticket": "x"}])


def test_a_changed_page_is_found_without_fitting_again(learned):
    sections = data.handbook(2)
    other = learned.reindexed(sections)
    assert other.sections == sections and learned.sections == data.handbook()
    with pytest.raises(ValueError, match="same section codes"):
        learned.reindexed(sections[1:])


def test_most_tickets_outside_the_handbook_get_no_section_and_few_inside(learned):
    rows = data.tickets("test")
    found = methods.contexts(rows, 1, learned)
    empty = {True: [], False: []}
    for row, context in zip(rows, found):
        empty[bool(row["asks"])].append(not context)
    assert np.mean(empty[False]) >= 0.6
    assert np.mean(empty[True]) <= 0.08


def test_spelling_beside_meaning_finds_more_than_meaning_alone(learned):
    rows = [row for row in data.tickets("validation") if row["asks"]]
    meaning = retrieval.Learned(learned.sections, learned.past, letters=0.0)
    right = {}
    for name, retriever in (("meaning", meaning), ("both", learned)):
        scores = retriever.scores([row["ticket"] for row in rows])
        gold = retrieval.gold_ranks(scores, rows, learned.sections)
        right[name] = retrieval.recall_at_k(gold, 1)
    assert right["both"] > right["meaning"] + 0.03


def test_a_result_is_kept_by_what_went_in(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKSHOP_RUNS", str(tmp_path))
    features = np.eye(4)
    owner = np.array([0, 0, 1, 1])
    first = retrieval._kept(retrieval._fit)(features, owner, 1.0)
    again = retrieval._kept(retrieval._fit)(features, owner, 1.0)
    other = retrieval._kept(retrieval._fit)(features, owner, 9.0)
    assert (tmp_path / "cache").is_dir()
    assert np.array_equal(first.coef_, again.coef_)
    assert not np.allclose(first.coef_, other.coef_)
