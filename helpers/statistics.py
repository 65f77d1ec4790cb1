"""How sure a figure is, and which differences are more than chance: intervals, paired tests, what the test set can detect.

``wilson`` is introduced in lesson 00, section 0.6; ``bootstrap`` and ``mcnemar`` in lesson 01, sections 1.5 and 1.7; the rest in lesson 05, section 5.3.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for a proportion (Wilson 1927), by scipy; (0, 1) for n = 0."""
    from scipy.stats import binomtest

    if n == 0:
        return 0.0, 1.0
    interval = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def rate(flags: list[bool]) -> dict[str, float]:
    """``{"value", "low", "high"}`` of a list of yes and no, with its 95 % interval."""
    low, high = wilson(sum(flags), len(flags))
    return {"value": sum(flags) / len(flags) if flags else 0.0, "low": low, "high": high}


def percent(rate: dict[str, float], digits: int = 0, unit: str = " %") -> str:
    """A rate as a reader wants it, "83 % (78 to 87)": the share, and its interval in brackets; ``unit=""`` where the column says %."""
    value, low, high = (f"{100 * rate[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value}{unit} ({low} to {high})"


def share_of(share: float, n: int) -> str:
    """A share in percent of n as a table wants it, "55.7 (49 to 62)", with its 95 % interval; raises ValueError for n < 1."""
    if n < 1:
        raise ValueError(f"a share of {n} has no interval")
    low, high = wilson(round(share * n / 100), n)
    return f"{share:.1f} ({100 * low:.0f} to {100 * high:.0f})"


def bootstrap(
    statistic, *columns, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> dict[str, float]:
    """``{"value", "low", "high"}`` of any figure over tickets, by the percentile bootstrap (Efron 1979), by scipy.

    Each column holds one value a ticket (a number, a label); tickets are drawn with replacement, all their columns together, and
    ``statistic(*columns)`` is computed on each draw. For what is no share: mean tokens, a median latency, a macro F1, a difference.
    Raises ValueError for fewer than two tickets or columns of unequal length.
    """
    from scipy import stats

    columns = [np.asarray(column) for column in columns]
    sizes = {len(column) for column in columns}
    if len(sizes) != 1 or min(sizes) < 2:
        raise ValueError(
            f"columns of {sorted(sizes)} tickets; expected the same number in each, at least 2"
        )

    def drawn(places):
        return statistic(*(column[places.astype(int)] for column in columns))

    interval = stats.bootstrap(
        (np.arange(*sizes),),
        drawn,
        vectorized=False,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        rng=seed,
    ).confidence_interval
    value = float(statistic(*columns))
    return {"value": value, "low": float(interval.low), "high": float(interval.high)}


def mcnemar(a: list[bool], b: list[bool]) -> dict:
    """Exact McNemar test of two methods on the same tickets (McNemar 1947): only tickets where they differ count.

    Returns ``only_a``, ``only_b``, ``difference`` (share of a minus share of b) and the two-sided ``p``.
    """
    from scipy.stats import binomtest

    if len(a) != len(b):
        raise ValueError(f"a paired test needs the same tickets: {len(a)} and {len(b)}")
    only_a = sum(x and not y for x, y in zip(a, b))
    only_b = sum(y and not x for x, y in zip(a, b))
    p = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return {
        "only_a": only_a,
        "only_b": only_b,
        "difference": (only_a - only_b) / max(1, len(a)),
        "p": float(p),
    }


def paired_difference(a: list[bool], b: list[bool], confidence: float = 0.95) -> dict[str, float]:
    """``{"value", "low", "high"}``: share of yes in a minus that in b on the same tickets, by Newcombe's tenth method (1998, Statistics in Medicine 17, 2635).

    It joins the two Wilson intervals by how the answers go together. A bootstrap cannot leave zero where the two never differ, and cannot cross it where
    only one of them is ever alone. Raises ValueError for unequal lengths.
    """
    if len(a) != len(b):
        raise ValueError(f"a paired difference needs the same tickets: {len(a)} and {len(b)}")
    n, a, b = len(a), np.asarray(a, bool), np.asarray(b, bool)
    (low_a, high_a), (low_b, high_b) = (wilson(int(x.sum()), n, confidence) for x in (a, b))
    both, neither = int((a & b).sum()), int((~a & ~b).sum())
    cross = both * neither - int((a & ~b).sum()) * int((~a & b).sum())
    sizes = float(a.sum()) * float((~a).sum()) * float(b.sum()) * float((~b).sum())
    phi = (max(cross - n / 2, 0) if cross > 0 else cross) / sizes**0.5 if sizes else 0.0
    share_a, share_b = (float(x.mean()) if n else 0.0 for x in (a, b))
    down, up = (
        max(x**2 - 2 * phi * x * y + y**2, 0) ** 0.5
        for x, y in ((share_a - low_a, high_b - share_b), (high_a - share_a, share_b - low_b))
    )
    value = share_a - share_b
    return {"value": value, "low": value - down, "high": value + up}


def points(difference: dict[str, float]) -> str:
    """A difference of two shares as a reader wants it, "+5 points (-1 to +11)"."""
    value, low, high = (100 * difference[key] for key in ("value", "low", "high"))
    return f"{value:+.0f} points ({low:+.0f} to {high:+.0f})"


def holm(p_values: list[float]) -> list[float]:
    """The p values corrected for asking so many questions (Holm 1979), in the order given.

    The smallest is multiplied by their number, the next by one less, and so on; none falls below one before it.
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    out = np.empty_like(p)
    out[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return out.tolist()


def compare(
    flags: dict[str, list[bool]], pairs: list[tuple[str, str]] | None = None, alpha: float = 0.05
):
    """A pandas DataFrame with McNemar's test of each pair of methods (all pairs unless given), corrected by ``holm``.

    ``flags`` holds one yes or no a ticket for each method. Differences are in points with a 95 % interval (``paired_difference``, of this one
    pair, not corrected); the least p comes first.
    """
    import pandas as pd

    lines = []
    for a, b in pairs or combinations(flags, 2):
        test = mcnemar(flags[a], flags[b])
        gap = {k: 100 * x for k, x in paired_difference(flags[a], flags[b]).items()}
        line = {"method": a, "against": b, "only first": test["only_a"]}
        line |= {"only second": test["only_b"], "points": gap["value"]}
        lines.append(line | {"low": gap["low"], "high": gap["high"], "p": test["p"]})
    frame = pd.DataFrame(lines)
    frame["p, Holm"] = holm(frame["p"])
    frame["verdict"] = np.where(frame["p, Holm"] < alpha, "a difference", "not shown")
    return frame.sort_values("p", kind="stable", ignore_index=True)


def power(n: int, disagree: float, difference: float, alpha: float = 0.05) -> float:
    """The chance that McNemar's exact test finds a true difference, summed over all outcomes (Duffy 1984).

    ``n`` tickets, of which the share ``disagree`` is resolved by one method alone; ``difference`` of the true shares.
    """
    from scipy.stats import binom

    count = np.arange(n + 1)  # tickets on which the two differ
    tail = np.clip(
        binom.isf(alpha / 2, count, 0.5), 0, None
    )  # the most that is not yet rare enough
    tail += 2 * binom.sf(tail, count, 0.5) >= alpha  # "below alpha", strictly
    share = (1 + difference / disagree) / 2
    found = binom.sf(tail, count, share) + binom.cdf(count - tail - 1, count, share)
    return float(binom.pmf(count, n, disagree) @ found)


def detectable_difference(
    n: int,
    disagree: float = 0.2,
    questions: int = 1,
    power_wanted: float = 0.8,
    alpha: float = 0.05,
) -> float:
    """The least true difference of two methods (a share) that n tickets show with this power; nan if none does.

    With several ``questions`` the test is held to alpha / questions, Holm's first step. Found by bisection on ``power``.
    """
    from scipy.optimize import brentq

    level = alpha / questions
    if power(n, disagree, disagree, level) < power_wanted:
        return float("nan")
    return float(
        brentq(lambda d: power(n, disagree, d, level) - power_wanted, 0, disagree, xtol=1e-5)
    )
