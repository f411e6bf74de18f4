"""Estimates with intervals: t intervals, intervals of skewed means, bootstraps and shares."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy

DRAWS = 9_999
"""Number of bootstrap resamples; DRAWS + 1 is round, so usual levels fall on an order statistic."""


FEWEST_PAIRS = 6
"""Least number of pairs that gives a verdict."""

MOST_PAIRS = 100_000
"""Largest number of pairs that is searched for; above it the answer is infinite."""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval and the number of values it is computed from; NaN if missing."""

    value: float
    low: float
    high: float
    n: int


def estimate(values: Iterable[float], *, confidence: float = 0.95) -> Estimate:
    """Mean and t interval of the finite values; no interval for fewer than two values."""
    finite = np.asarray(list(values), dtype=float)
    finite = finite[np.isfinite(finite)]
    if len(finite) < 2:
        return Estimate(float(finite[0]) if len(finite) else np.nan, np.nan, np.nan, len(finite))
    low, high = t_interval(finite, confidence=confidence)
    return Estimate(float(finite.mean()), float(low), float(high), len(finite))


def t_interval(values: np.ndarray, *, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Student's t interval of the mean: to show one loss beside others, not for verdicts.

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


LEAST_SKEWNESS = 0.75
"""Least skewness that is assumed of differences, whatever their sample shows.

If one seed in ten is bad, ten seeds often contain no bad seed. benchmarks/coverage.py measures the
coverage of the interval and how much longer the assumption makes the interval for normal values.
"""

UNSEEN = 2.0
"""Largest assumed ratio of true skewness to a sample's skewness: small samples hide skewness."""


def mean_interval(values: np.ndarray, *, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Interval of the mean of differences that may be skewed: the basis of the verdicts.

    Student's t, with the quantile on either side increased for skewness towards that side, to
    second order: by G (2t² + 1) / (6 √n), with G twice the sample's skewness or `LEAST_SKEWNESS`,
    whichever is larger. Values closer to the same mean give a narrower interval.

    Args:
        values: [..., n], n > 1 differences of pairs, in units of the metric.
        confidence: Coverage of each interval.

    Returns:
        Lower and upper bounds, [...].

    Source:
        Johnson 1978, JASA, and Hall 1992, JRSS B, for the effect of skewness on t.
    """
    n, mean = values.shape[-1], values.mean(-1)
    deviation = values.std(-1, ddof=1)
    third = ((values - mean[..., None]) ** 3).sum(-1) * n / max((n - 1) * (n - 2), 1)
    skewness = np.where(deviation > 0, third / np.where(deviation > 0, deviation, 1.0) ** 3, 0.0)
    critical = scipy.stats.t.ppf(0.5 + confidence / 2, n - 1)
    low, high = (
        critical + _of_skewness(n, critical) * np.maximum(LEAST_SKEWNESS, UNSEEN * towards)
        for towards in (-skewness, skewness)
    )
    error = deviation / np.sqrt(n)
    return mean - low * error, mean + high * error


def usual_length(n: int, confidence: float) -> float:
    """Expected length of either side of `mean_interval` for normal values, in standard errors."""
    critical = scipy.stats.t.ppf(0.5 + confidence / 2, n - 1)
    # The skewness of normal samples is nearly normal, with this standard deviation.
    deviation = UNSEEN * np.sqrt(6 * n * (n - 1) / ((n - 2) * (n + 1) * (n + 3)))
    least = LEAST_SKEWNESS / deviation
    allowed = LEAST_SKEWNESS * scipy.stats.norm.cdf(least) + deviation * scipy.stats.norm.pdf(least)
    return float(critical + _of_skewness(n, critical) * allowed)


def _of_skewness(n: int, critical: float) -> float:
    """Increase of the t quantile `critical` for one unit of skewness."""
    return (2 * critical**2 + 1) / (6 * np.sqrt(n))


def geometric_mean(values: pd.Series) -> float:
    """Geometric mean of the positive values; NaN if no value is positive."""
    positive = values[values > 0].astype(float)
    return float(np.exp(np.log(positive).mean())) if len(positive) else np.nan


def half_width(deviation: Any, n: Any, confidence: float) -> Any:
    """Half the width of the t interval of a mean of n > 1 values."""
    return scipy.stats.t.ppf(0.5 + confidence / 2, n - 1) * deviation / np.sqrt(n)


# ---- bootstraps ----------------------------------------------------------------------------------


@functools.lru_cache(maxsize=8)
def resamples(n: int, *, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Counts of each of n values in each resample, [draws, n]; rows sum to n.

    The array is read-only, because all losses of a context are judged by the same resamples.
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
        draws: Number of resamples; every leading index uses the same resamples.
        seed: Seed of the resamples, so that equal values have equal intervals.

    Returns:
        Lower and upper bounds, [...]. For constant values both bounds are the value, for a single
        value both are NaN. A bound is infinite if too many resamples of tied values have no spread.

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
    # A resample that repeats one value has a spread of rounding errors only.
    spread = np.where(spread > 1e-7 * abs(centred).max(-1, keepdims=True), spread, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(shift == 0, 0.0, shift / spread)
    ordered = np.partition(ratio, (tail - 1, ratio.shape[-1] - tail), -1)
    ends = ordered[:, [ratio.shape[-1] - tail, tail - 1]]
    deviation = np.where(is_constant, 0.0, rows.std(-1, ddof=1))[:, None]
    return np.where(is_constant[:, None], rows[:, :1], mean - ends * deviation)


# ---- shares ----------------------------------------------------------------------------------


def share(count: int, trials: int, *, confidence: float = 0.95) -> Estimate:
    """A share with its exact binomial interval; NaN without trials.

    Args:
        count: Number of successes.
        trials: Number of successes and failures.
        confidence: Least coverage of the interval; either side has half of the error.

    Source:
        Clopper and Pearson 1934, Biometrika.
    """
    if not trials:
        return Estimate(np.nan, np.nan, np.nan, 0)
    bounds = scipy.stats.binomtest(count, trials).proportion_ci(confidence)
    return Estimate(count / trials, float(bounds.low), float(bounds.high), trials)
