"""The differences that a number of seeds can resolve, computed before the seeds are trained."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy

from lossbench.statistics.choice import at_choice
from lossbench.statistics.design import FACTS, refuse_unequal
from lossbench.statistics.intervals import FEWEST_PAIRS, MOST_PAIRS, usual_length
from lossbench.statistics.rule import Rule


class Detectable(NamedTuple):
    """Smallest true difference that is detected, and smallest margin that shows equivalence.

    Both numbers are in units of the metric and hold with the requested power.
    """

    difference: float
    margin: float


class Pairs(NamedTuple):
    """Fewest pairs that detect a true difference, and fewest that show equivalence in a margin."""

    difference: float
    margin: float


def minimum_detectable_effect(
    spread: float, *, pairs: int, comparisons: int, confidence: float = 0.95, power: float = 0.8
) -> Detectable:
    """The least difference that verdicts of `paired` distinguish from zero, for normal differences.

    Args:
        spread: Standard deviation of the differences of pairs, in units of the metric.
        pairs: Seeds in which both losses are done.
        comparisons: Losses that share the reference (m of Bonferroni).
        confidence: Simultaneous coverage.
        power: Chance of the verdict.

    Returns:
        The smallest true difference whose interval excludes zero, and the smallest margin within
        which a true difference of zero is called equivalent. Both are infinite below 6 pairs,
        which give no verdict; the margin also if the level is not above the power.

    Source:
        Schuirmann 1987, Journal of Pharmacokinetics and Biopharmaceutics, for equivalence; the
        length of the interval is taken at its mean, `usual_length`.
    """
    if pairs < FEWEST_PAIRS:
        return Detectable(np.inf, np.inf)
    level = 1 - (1 - confidence) / comparisons
    units = _unit_difference(pairs, level, power), _unit_margin(pairs, level, power)
    return Detectable(*(spread * unit for unit in units))


def pairs_for(
    spread: float, *, size: float, comparisons: int, confidence: float = 0.95, power: float = 0.8
) -> Pairs:
    """Number of pairs that resolve a difference: the inverse of `minimum_detectable_effect`.

    Args:
        spread: Standard deviation of the differences of pairs, in units of the metric.
        size: True difference to be found, and margin within which zero is to be equivalent.
        comparisons: Losses that share the reference (m of Bonferroni).
        confidence: Simultaneous coverage.
        power: Chance of the verdict.

    Returns:
        Numbers of pairs; at least 6, because fewer give no verdict, and infinite above 100,000.
    """
    level = 1 - (1 - confidence) / comparisons

    def fewest(unit: Callable[[int, float, float], float]) -> float:
        return fewest_pairs(lambda pairs: spread * unit(pairs, level, power) <= size)

    return Pairs(fewest(_unit_difference), fewest(_unit_margin))


def fewest_pairs(suffice: Callable[[int], bool], *, least: int = FEWEST_PAIRS) -> float:
    """Smallest number of pairs, `least` or more, that suffices; infinity above 100,000."""
    low, high = least - 1, least  # low does not suffice or is not allowed
    while not suffice(high):
        if high >= MOST_PAIRS:
            return math.inf
        low, high = high, min(2 * high, MOST_PAIRS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffice(middle) else (middle, high)
    return float(high)


@functools.lru_cache(maxsize=4096)
def _unit_difference(pairs: int, level: float, power: float) -> float:
    """The smallest difference that is detected with a spread of 1."""
    critical = usual_length(pairs, level)

    def excess(shift: float) -> float:  # in standard errors of the mean
        def chance(spread: float) -> float:
            ends = shift - critical * spread, -shift - critical * spread
            return scipy.special.ndtr(ends[0]) + scipy.special.ndtr(ends[1])

        return expected_over_spread(chance, pairs, kinks=(shift / critical,)) - power

    return _root(excess, critical) / math.sqrt(pairs) if power > 1 - level else 0.0


@functools.lru_cache(maxsize=4096)
def _unit_margin(pairs: int, level: float, power: float) -> float:
    """The smallest margin that contains an interval around zero with a spread of 1."""
    critical = usual_length(pairs, level)

    def excess(margin: float) -> float:  # in standard errors of the mean
        def chance(spread: float) -> float:
            room = max(0.0, min(critical * spread, margin - critical * spread))
            return 2 * scipy.special.ndtr(room) - 1

        kinks = margin / critical / 2, margin / critical
        return expected_over_spread(chance, pairs, kinks=kinks) - power

    return _root(excess, critical) / math.sqrt(pairs) if power < level - 1e-9 else math.inf


def expected_over_spread(
    chance: Callable[[float], float], pairs: int, *, kinks: tuple[float, ...]
) -> float:
    """Expected value of a chance that depends on a sample's spread, for a true spread of 1."""
    freedom = pairs - 1
    least, most = np.sqrt(scipy.stats.chi2.ppf([1e-12, 1 - 1e-12], freedom) / freedom)
    constant = np.log(2) + freedom / 2 * np.log(freedom / 2) - scipy.special.gammaln(freedom / 2)

    def weighed(spread: float) -> float:  # by the density of chi / sqrt(freedom)
        log = constant + (freedom - 1) * np.log(spread) - freedom * spread**2 / 2
        return float(np.exp(log) * chance(spread))

    points = [kink for kink in kinks if least < kink < most]
    return scipy.integrate.quad(weighed, least, most, points=points or None, limit=200)[0]


def _root(excess: Callable[[float], float], start: float) -> float:
    """Zero of an increasing function at or above 0; `start` is the first upper bound to try."""
    high = start
    while excess(high) < 0:
        high *= 2
    return float(scipy.optimize.brentq(excess, 0.0, high, xtol=1e-9))


def spreads(frame: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """Standard deviation over seeds of the differences of pairs on validation, to plan more seeds.

    Each loss has its chosen candidate. Seeds are few, so a plan should use the upper confidence
    limit, not the estimate; choosing the rate on the same runs makes both numbers a little too
    small. No test value is used.

    Args:
        frame: One row a run, with `candidate` and `selected_by`, see `choice.tuning_table`, and the
            metric on validation.
        rule: Rule with the metric and the reference to compare, and how a candidate is chosen.

    Returns:
        Rows by `FACTS` (one a challenger): metric, reference, `pairs`, `spread` (standard deviation
        of the differences, in units of the metric) and `spread_upper`, its one-sided 80 % upper
        confidence limit for normal differences; NaN with fewer than two pairs.
    """
    rows = []
    chosen = at_choice(frame, rule)
    for _, cell in chosen.groupby(["context", "condition"], sort=False):
        refuse_unequal(cell)
        values = cell.pivot(index="seed", columns="loss", values=rule.metric)  # noqa: PD010
        for loss in sorted({*values} - {rule.reference}) if rule.reference in values else []:
            differences = (values[loss] - values[rule.reference]).astype(float)
            facts = cell[cell.loss == loss].iloc[0][FACTS].to_dict()
            differences = differences[np.isfinite(differences)]
            n, spread, upper = len(differences), np.nan, np.nan
            if n > 1:
                spread = float(differences.std())
                upper = float(spread * np.sqrt((n - 1) / scipy.stats.chi2.ppf(0.2, n - 1)))
            estimates = {"pairs": n, "spread": spread, "spread_upper": upper}
            rows.append(facts | {"metric": rule.metric, "reference": rule.reference} | estimates)
    columns = [*FACTS, "metric", "reference", "pairs", "spread", "spread_upper"]
    return pd.DataFrame(rows, columns=columns)
