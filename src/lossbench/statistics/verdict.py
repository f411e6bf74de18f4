"""Verdicts on an interval, monotone in the interval, and the seeds that an open one needs."""

from __future__ import annotations

import math

import numpy as np
import scipy

from lossbench.statistics.intervals import FEWEST_PAIRS, Estimate, usual_length
from lossbench.statistics.sample_size import expected_over_spread, fewest_pairs


def is_open(word: str, margin: float) -> bool:
    """Whether more seeds may still change a verdict.

    A settled verdict has an interval wholly beyond the margin or wholly within the margin; without
    a margin, an interval that excludes zero.

    Args:
        word: Verdict of a row of `paired`.
        margin: The declared margin, in units of the metric.
    """
    return word in ("undecided", "too few pairs") or (word in ("better", "worse") and margin > 0)


def gain(low: float, high: float, *, sign: float) -> tuple[float, float]:
    """The interval of a difference, with its sign changed if needed so that positive is better.

    Args:
        low: Lower end of the interval of the difference, in units of the metric.
        high: Upper end.
        sign: `records.sign` of the metric.
    """
    return (low, high) if sign > 0 else (-high, -low)


def verdict(low: float, high: float, margin: float) -> str:
    """The verdict on an interval of the gain; a narrower interval never gets a weaker verdict.

    Args:
        low: Lower end of the interval of the gain, in units of the metric: positive is better.
        high: Upper end.
        margin: Largest difference that does not matter; 0 if every difference matters.

    Returns:
        better by more (than the margin), better, worse, worse by more; below the margin (zero is
        excluded, and the whole interval is within the margin); equivalent (zero is not excluded,
        and the whole interval is within the margin); undecided.
    """
    if low <= 0 <= high:
        return "equivalent" if -margin <= low and high <= margin else "undecided"
    word, least, most = ("better", low, high) if low > 0 else ("worse", -high, -low)
    if most <= margin:
        return "below the margin"
    return f"{word} by more" if least > margin > 0 else word


def seeds_needed(
    estimate: Estimate, margin: float, *, confidence: float, average: str = "mean"
) -> float:
    """Number of seeds at which an undecided comparison is decided with a chance of 80 %.

    Decided means that the interval excludes zero or lies within the margin, if the true mean and
    the true spread over seeds, including the choice of candidates, are as observed. For a median
    this is approximate: its interval is taken for that of a mean with the same length. If a median
    has no finite interval yet, the result is the number of seeds that gives one, of any verdict.

    Args:
        estimate: The difference, with its interval at this confidence and its number of pairs.
        margin: The declared margin, in units of the metric.
        confidence: Confidence of the interval.
        average: Summary of the seeds: "mean" or "median".

    Returns:
        Number of seeds, at least 6; infinite above 100,000.
    """
    fewest = FEWEST_PAIRS
    if average == "median":
        fewest = max(fewest, math.ceil(1 - math.log2(1 - confidence)))
    critical = usual_length(estimate.n, confidence)
    half = (estimate.high - estimate.low) / 2
    if not math.isfinite(half):
        return float(fewest)
    mean, spread = estimate.value, half / critical * math.sqrt(estimate.n)

    def suffice(count: int) -> bool:
        return chance_of_decision(mean, spread, margin, pairs=count, confidence=confidence) >= 0.8

    return fewest_pairs(suffice, least=fewest)


def chance_of_decision(
    mean: float, spread: float, margin: float, *, pairs: int, confidence: float
) -> float:
    """Chance that a comparison is decided by the interval of a number of normal differences.

    Args:
        mean: True mean of the differences.
        spread: True standard deviation of the differences.
        margin: The declared margin, in units of the metric.
        pairs: Number of differences.
        confidence: Confidence of the interval.
    """
    error = spread / math.sqrt(pairs)
    if error == 0:
        return 1.0
    critical = usual_length(pairs, confidence) * error

    def between(low: float, high: float) -> float:
        return scipy.special.ndtr((high - mean) / error) - scipy.special.ndtr((low - mean) / error)

    def decided(ratio: float) -> float:  # ratio of the sample's spread to the true spread
        half = critical * ratio
        # Undecided: zero is within the interval, and an end of the interval outside the margin.
        least = max(0.0, min(half, margin - half))
        return 1.0 - between(-half, half) + between(-least, least)

    kinks = tuple(kink / critical for kink in (margin / 2, margin, abs(mean)))
    return float(expected_over_spread(decided, pairs, kinks=kinks))


def divergence_p(mine: np.ndarray, theirs: np.ndarray) -> float:
    """Exact two-sided p-value of the hypothesis that loss and reference diverge equally often.

    Args:
        mine: Whether the loss's run of each seed diverged, [S].
        theirs: Whether the reference's run of each seed diverged, [S].

    Source:
        McNemar 1947, Psychometrika, in its exact form.
    """
    only_mine, only_theirs = int((mine & ~theirs).sum()), int((theirs & ~mine).sum())
    if not only_mine + only_theirs:
        return 1.0
    return float(scipy.stats.binomtest(only_mine, only_mine + only_theirs).pvalue)
