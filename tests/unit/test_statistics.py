import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from helpers.statistics import (
    bootstrap,
    compare,
    detectable_difference,
    holm,
    mcnemar,
    paired_difference,
    percent,
    points,
    power,
    rate,
    share_of,
    wilson,
)

# --- proportions and pairs ---


@pytest.mark.parametrize(
    "successes, n, low, high",
    [
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (50, 100, 0.4038, 0.5962),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_wilson_gives_the_published_interval(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_without_tickets_knows_nothing():
    assert wilson(0, 0) == (0.0, 1.0)


def test_a_rate_is_written_with_its_interval():
    found = rate([True] * 8 + [False] * 2)
    assert percent(found) == "80 % (49 to 94)"
    assert percent(found, 1, unit="") == "80.0 (49.0 to 94.3)"


def test_wilson_is_wider_for_more_confidence():
    narrow, wide = wilson(8, 10, 0.8), wilson(8, 10, 0.99)
    assert wide[0] < narrow[0] < 0.8 < narrow[1] < wide[1]


def test_wilson_is_symmetric_in_yes_and_no():
    low, high = wilson(3, 17)
    assert wilson(14, 17) == pytest.approx((1 - high, 1 - low))


def test_rate_of_nothing_is_zero_with_the_full_interval():
    assert rate([]) == {"value": 0.0, "low": 0.0, "high": 1.0}


def test_rate_is_the_share_of_yes_inside_its_interval():
    assert rate([True, True, True, False]) == {
        "value": 0.75,
        **dict(zip(("low", "high"), wilson(3, 4), strict=True)),
    }


def test_mcnemar_of_balanced_differences_is_no_evidence():
    assert mcnemar([True, False, True], [False, True, True]) == {
        "only_a": 1,
        "only_b": 1,
        "difference": 0.0,
        "p": 1.0,
    }


def test_mcnemar_of_equal_methods_is_no_evidence():
    assert mcnemar([True, False], [True, False])["p"] == 1.0


def test_mcnemar_of_no_tickets_is_no_evidence():
    assert mcnemar([], []) == {"only_a": 0, "only_b": 0, "difference": 0.0, "p": 1.0}


def test_mcnemar_of_one_sided_differences_is_the_binomial_test():
    result = mcnemar([True] * 9, [False] * 8 + [True])
    assert (result["only_a"], result["only_b"]) == (8, 0)
    assert result["p"] == pytest.approx(binomtest(8, 8).pvalue) == pytest.approx(2 / 2**8)


def test_mcnemar_ignores_tickets_where_both_agree():
    a, b = [True] * 6 + [False], [False] * 6 + [True]
    assert mcnemar(a + [True, False] * 50, b + [True, False] * 50)["p"] == mcnemar(a, b)["p"]


def test_mcnemar_turns_its_sign_with_the_order_of_methods():
    a, b = [True, True, True, False], [False, False, True, False]
    assert mcnemar(a, b)["difference"] == -mcnemar(b, a)["difference"] == 0.5
    assert mcnemar(a, b)["p"] == mcnemar(b, a)["p"]


def test_mcnemar_of_unequal_lengths_raises():
    with pytest.raises(ValueError, match="3 and 2"):
        mcnemar([True] * 3, [True] * 2)


# --- bootstrap ---


def _pair(both, only_a, only_b, neither):
    a = [True] * (both + only_a) + [False] * (only_b + neither)
    return a, [True] * both + [False] * only_a + [True] * only_b + [False] * neither


def test_paired_difference_gives_the_published_interval():
    found = paired_difference(*_pair(20, 12, 2, 16))  # Newcombe 1998, his worked example
    assert [round(found[k], 4) for k in ("value", "low", "high")] == [0.2, 0.0562, 0.3292]


def test_paired_difference_without_a_disagreement_is_not_certainty():
    found = paired_difference(*_pair(0, 0, 0, 36))
    assert found["value"] == 0 and found["low"] == -found["high"] < -0.05


def test_paired_difference_turns_with_the_order():
    a, b = _pair(10, 9, 3, 20)
    one, other = paired_difference(a, b), paired_difference(b, a)
    assert math.isclose(one["low"], -other["high"]) and math.isclose(one["high"], -other["low"])


def test_paired_difference_of_unequal_lengths_raises():
    with pytest.raises(ValueError, match="3 and 2"):
        paired_difference([True] * 3, [True] * 2)


def test_a_difference_is_written_with_its_interval():
    assert points({"value": 0.05, "low": -0.01, "high": 0.112}) == "+5 points (-1 to +11)"


def test_bootstrap_of_a_share_is_near_its_wilson_interval():
    flags = [True] * 70 + [False] * 130
    found, (low, high) = bootstrap(np.mean, flags), wilson(70, 200)
    assert found["value"] == 0.35
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=0.02)


def test_bootstrap_draws_the_columns_of_a_ticket_together():
    a = np.arange(50.0)
    found = bootstrap(lambda x, y: np.max(np.abs(x + y)), a, -a)
    assert found == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_bootstrap_takes_labels():
    labels = np.array(["low", "high"] * 20)
    found = bootstrap(lambda x, y: (x == y).mean(), labels, np.roll(labels, 1))
    assert found["value"] == found["high"] == 0.0


def test_bootstrap_is_repeatable_by_its_seed_and_only_by_it():
    values = np.arange(30.0)
    assert bootstrap(np.mean, values) == bootstrap(np.mean, values)
    assert bootstrap(np.mean, values) != bootstrap(np.mean, values, seed=1)


def test_bootstrap_is_wider_for_fewer_tickets_and_more_confidence():
    def width(n, confidence):
        found = bootstrap(np.mean, np.arange(n) % 7, confidence=confidence)
        return found["high"] - found["low"]

    assert width(20, 0.95) > width(200, 0.95) > width(200, 0.8)


def test_bootstrap_of_equal_values_has_no_width():
    assert bootstrap(np.mean, [3.0] * 10) == {"value": 3.0, "low": 3.0, "high": 3.0}


@pytest.mark.parametrize("columns", [([],), ([1.0],), ([1.0, 2.0], [1.0])])
def test_bootstrap_without_tickets_to_draw_from_raises(columns):
    with pytest.raises(ValueError, match="at least 2"):
        bootstrap(lambda *c: np.mean(c[0]), *columns)


# --- Holm ---


def test_holm_gives_the_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_of_one_question_changes_nothing():
    assert holm([0.03]) == [0.03]


def test_holm_of_no_question_is_empty():
    assert holm([]) == []


def test_holm_stays_at_or_below_one_and_at_or_above_each_p():
    p = [0.9, 0.2, 0.5, 0.9]
    assert all(a <= b <= 1 for a, b in zip(p, holm(p)))


def test_holm_is_never_stricter_than_bonferroni_and_keeps_the_order():
    p = [0.001, 0.2, 0.012, 0.04]
    corrected = holm(p)
    assert all(c <= min(1, 4 * x) + 1e-12 for c, x in zip(corrected, p))
    assert np.array_equal(np.argsort(corrected, kind="stable"), np.argsort(p, kind="stable"))


# --- every pair of a scoreboard ---


@pytest.fixture
def flags():
    return {"a": [True] * 40, "b": [True] * 20 + [False] * 20, "c": [True] * 19 + [False] * 21}


def test_compare_asks_every_pair_once(flags):
    frame = compare(flags)
    assert sorted(zip(frame["method"], frame["against"])) == [("a", "b"), ("a", "c"), ("b", "c")]


def test_compare_corrects_for_the_pairs_that_were_asked(flags):
    few, all_pairs = compare(flags, [("a", "b")]), compare(flags)
    assert few["p, Holm"][0] == few["p"][0]
    worst = all_pairs[all_pairs["against"] == "b"]
    assert worst["p, Holm"].item() > worst["p"].item()


def test_compare_says_difference_and_not_shown(flags):
    verdicts = {(r.method, r.against): r.verdict for r in compare(flags).itertuples()}
    assert verdicts["a", "b"] == "a difference" and verdicts["b", "c"] == "not shown"


def test_compare_has_its_difference_inside_its_interval(flags):
    for row in compare(flags).itertuples():
        assert row.low <= row.points <= row.high
    assert compare(flags, [("a", "b")])["points"][0] == pytest.approx(50.0)


# --- what the test set can detect ---


def test_power_is_the_sum_over_all_outcomes():
    n, disagree, difference, by_hand = 12, 0.6, 0.4, 0.0
    share = (1 + difference / disagree) / 2
    for count, first in product(range(n + 1), repeat=2):
        if first <= count and count and binomtest(first, count).pvalue < 0.05:
            by_hand += binom.pmf(count, n, disagree) * binom.pmf(first, count, share)
    assert power(n, disagree, difference) == pytest.approx(by_hand)


def test_power_wants_p_below_alpha_and_not_at_it():
    at = binomtest(5, 5).pvalue
    assert power(5, 1.0, 0.5, alpha=at) == 0.0 < power(5, 1.0, 0.5, alpha=at * 1.001)


def test_power_without_a_difference_is_below_alpha():
    assert 0 < power(244, 0.2, 0.0) < 0.05


def test_power_grows_with_the_difference_and_the_tickets():
    assert power(244, 0.2, 0.05) < power(244, 0.2, 0.1) < power(976, 0.2, 0.1)


def test_detectable_difference_has_the_power_asked_for():
    found = detectable_difference(244, 0.2)
    assert power(244, 0.2, found) == pytest.approx(0.8, abs=1e-3)


def test_detectable_difference_shrinks_with_tickets_and_grows_with_questions():
    assert detectable_difference(1000) < detectable_difference(244)
    assert detectable_difference(244) < detectable_difference(244, questions=28)


def test_a_handful_of_tickets_detects_nothing():
    assert math.isnan(detectable_difference(10, 0.2))


def test_a_share_is_told_with_its_interval_and_of_nothing_there_is_none():
    low, high = wilson(117, 210)
    assert share_of(100 * 117 / 210, 210) == f"55.7 ({100 * low:.0f} to {100 * high:.0f})"
    with pytest.raises(ValueError, match="a share of 0"):
        share_of(50.0, 0)
