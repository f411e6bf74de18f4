"""Numbers with their uncertainty: t intervals, bootstraps, shares, and tests of a shift."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

DRAWS = 9_999
"""Bootstrap resamples; one more is a round number, so usual levels fall on an order statistic."""


FEWEST_PAIRS = 6
"""Fewer pairs than this give no verdict."""

MOST_PAIRS = 100_000
"""More pairs than this are called infinitely many."""


@dataclass(frozen=True)
class Estimate:
    """A number, its interval, and how many values it comes from; NaN where there is none."""

    value: float
    low: float
    high: float
    n: int


def estimate(values: Iterable[float], *, confidence: float = 0.95) -> Estimate:
    """Mean and t interval of the finite values; fewer than two have no interval."""
    finite = np.asarray(list(values), dtype=float)
    finite = finite[np.isfinite(finite)]
    if len(finite) < 2:
        return Estimate(float(finite[0]) if len(finite) else np.nan, np.nan, np.nan, len(finite))
    low, high = t_interval(finite, confidence=confidence)
    return Estimate(float(finite.mean()), float(low), float(high), len(finite))


def t_interval(values: np.ndarray, *, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Student's t interval of the mean: what the verdicts rest on.

    Args:
        values: [..., n], n > 1 differences of pairs, in units of the metric.
        confidence: Coverage of each interval.

    Returns:
        Lower and upper bounds, [...].

    Source:
        Student 1908, Biometrika.
    """
    mean = values.mean(-1)
    half = half_width(values.std(-1, ddof=1), values.shape[-1], confidence)
    return mean - half, mean + half


def geometric_mean(values: pd.Series) -> float:
    """Geometric mean of the positive values; NaN where there are none."""
    positive = values[values > 0].astype(float)
    return float(np.exp(np.log(positive).mean())) if len(positive) else np.nan


def half_width(deviation: Any, n: Any, confidence: float) -> Any:
    """Half the width of the t interval of a mean of n > 1 values."""
    return stats.t.ppf(0.5 + confidence / 2, n - 1) * deviation / np.sqrt(n)


# ---- bootstraps ----------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def resamples(n: int, *, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """How often each of n values is drawn in each resample, [draws, n]; rows sum to n.

    Nobody may write to it: all losses of a task are judged by the same resamples.
    """
    shares = np.full(n, 1 / n)
    counts = np.random.default_rng(seed).multinomial(n, shares, size=draws).astype(float)
    counts.setflags(write=False)
    return counts


def bootstrap_t(
    values: np.ndarray, *, confidence: float = 0.95, draws: int = DRAWS, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Studentised bootstrap interval of the mean: follows skew that the t interval ignores.

    Args:
        values: [..., n] finite values.
        confidence: Coverage of each interval.
        draws: Resamples; one set of them serves every leading index.
        seed: Of the resamples, so that equal values have equal intervals.

    Returns:
        Lower and upper bounds, [...]. Constant values are their own interval, a single one has
        none. A bound is infinite where too many resamples of tied values have no spread.

    Source:
        Efron 1982; Hall 1988, Annals of Statistics.
    """
    values = np.asarray(values, dtype=float)
    if (n := values.shape[-1]) < 2:
        return np.full(values.shape[:-1], np.nan), np.full(values.shape[:-1], np.nan)
    rows = values.reshape(-1, n)
    counts, size = resamples(n, draws=draws, seed=seed), max(1, 4_000_000 // draws)
    tail = max(1, int((draws + 1) * (1 - confidence) / 2 + 1e-9))
    blocks = [_t_bounds(rows[i : i + size], counts, tail) for i in range(0, len(rows), size)]
    low, high = np.concatenate([*blocks, np.empty((0, 2))]).T
    return low.reshape(values.shape[:-1]), high.reshape(values.shape[:-1])


def _t_bounds(rows: np.ndarray, counts: np.ndarray, tail: int) -> np.ndarray:
    """Bounds of each row, [rows, 2], from the `tail`-th smallest and largest t of its resamples."""
    n, mean = rows.shape[-1], rows.mean(-1, keepdims=True)
    is_constant = np.ptp(rows, -1) == 0
    centred = np.where(is_constant[:, None], 0.0, rows - mean)
    shift = centred @ counts.T / n
    spread = np.sqrt(np.maximum(centred**2 @ counts.T / n - shift**2, 0) * n / (n - 1))
    # A resample of one value has a spread of rounding errors only.
    spread = np.where(spread > 1e-7 * abs(centred).max(-1, keepdims=True), spread, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(shift == 0, 0.0, shift / spread)
    ordered = np.partition(ratio, (tail - 1, ratio.shape[-1] - tail), -1)
    ends = ordered[:, [ratio.shape[-1] - tail, tail - 1]]
    deviation = np.where(is_constant, 0.0, rows.std(-1, ddof=1))[:, None]
    return np.where(is_constant[:, None], rows[:, :1], mean - ends * deviation)


def two_level(
    frame: pd.DataFrame, *, confidence: float = 0.95, draws: int = 1_999, seed: int = 0
) -> Estimate:
    """Mean difference over seeds and the examples of one fixed test set, both uncertain.

    Seeds and examples are crossed: each resample draws seeds, then examples that are the same for
    all of its seeds. The interval is a t interval with the standard error of the resamples.

    Args:
        frame: Columns seed, example and difference; every seed has every example once.
        confidence: Coverage.
        draws: Resamples of seeds and examples.
        seed: Of the resamples.

    Returns:
        Mean difference with its interval; n counts the seeds.

    Raises:
        ValueError: A seed lacks an example, or has it twice.

    Source:
        Owen 2007, Annals of Applied Statistics (the pigeonhole bootstrap).
    """
    known, n, examples = frame.dropna(), frame.seed.nunique(), frame.example.nunique()
    if len(known) != n * examples or known.duplicated(["seed", "example"]).any():
        raise ValueError(
            f"{n} seeds x {examples} examples have {len(known)} differences: every seed needs "
            "every example once. Give the seeds that survived, on one fixed test set."
        )
    table = known.pivot(index="seed", columns="example", values="difference")  # noqa: PD010
    values = table.to_numpy(dtype=float)
    mean = float(values.mean()) if n else np.nan
    if n < 2:
        return Estimate(mean, np.nan, np.nan, n)
    rows = resamples(n, draws=draws, seed=seed) @ values / n
    columns = resamples(examples, draws=draws, seed=seed + 1) / examples
    # Resampled seeds vary (n - 1) / n times as much as fresh ones would.
    error = (rows * columns).sum(-1).std() * np.sqrt(n / (n - 1))
    half = half_width(error * np.sqrt(n), n, confidence)
    return Estimate(mean, float(mean - half), float(mean + half), n)


# ---- shares and tests ----------------------------------------------------------------------------


def share(count: int, trials: int, *, confidence: float = 0.95) -> Estimate:
    """A share with its exact binomial interval; no trials have none.

    Args:
        count: Successes.
        trials: Successes and failures.
        confidence: Coverage, at least; half of what is missing lies on either side.

    Source:
        Clopper and Pearson 1934, Biometrika.
    """
    if not trials:
        return Estimate(np.nan, np.nan, np.nan, 0)
    bounds = stats.binomtest(count, trials).proportion_ci(confidence)
    return Estimate(count / trials, float(bounds.low), float(bounds.high), trials)


def wilcoxon(differences: Iterable[float]) -> float:
    """Exact two-sided p of the signed-rank test; ties share ranks, zeros are left out.

    Without any difference p is 1, and NaN without any value.

    Source:
        Wilcoxon 1945, Biometrics; exact with ties as the permutation test of the same statistic.
    """
    values = np.asarray(list(differences), dtype=float)
    if not len(values := values[np.isfinite(values)]):
        return np.nan
    values = values[values != 0]
    twice = (2 * stats.rankdata(abs(values))).astype(int)  # shared ranks are halves
    ranks = twice // max(1, np.gcd.reduce(twice))
    positive = int(ranks[values > 0].sum())
    smaller = min(positive, int(ranks.sum()) - positive)  # both tails of it are equally likely
    chances = np.zeros(smaller + 1)  # of each sum of positive ranks, were every sign a fair coin
    chances[0], top = 1.0, 1
    for rank in np.sort(ranks):
        top = min(top + rank, smaller + 1)
        chances[rank:top] += chances[: max(0, top - rank)].copy()
        chances[:top] /= 2
    return float(min(1.0, 2 * chances.sum()))


def holm(p: pd.Series) -> pd.Series:
    """Holm's step-down adjusted p-values; NaN stays NaN and is not counted."""
    ordered = p.dropna().sort_values()
    raised = ordered * np.arange(len(ordered), 0, -1)
    return raised.cummax().clip(upper=1.0).reindex(p.index)
