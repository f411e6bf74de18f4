"""The words of a verdict, monotone in its interval, and the seeds that would settle it."""

from __future__ import annotations

import math

import numpy as np
import scipy

from lossbench.statistics.intervals import FEWEST_PAIRS, Estimate, usual_length
from lossbench.statistics.sample_size import expected_over_spread, fewest_pairs


def is_open(word: str, margin: float) -> bool:
    """Whether more seeds may still change a verdict.

    A settled one has an interval that lies wholly beyond the margin or wholly within it; without a
    margin, that leaves zero out.

    Args:
        word: Of `paired`.
        margin: As declared.
    """
    return word in ("undecided", "too few pairs") or (word in ("better", "worse") and margin > 0)


def gain(low: float, high: float, *, sign: float) -> tuple[float, float]:
    """The interval of a difference, turned so that positive is better.

    Args:
        low: Of the difference, in units of the metric.
        high: The upper end.
        sign: `records.sign` of the metric.
    """
    return (low, high) if sign > 0 else (-high, -low)


def verdict(low: float, high: float, margin: float) -> str:
    """The verdict of an interval of the gain over the reference; a narrower one never says less.

    Args:
        low: Of the gain, in units of the metric: positive is better.
        high: The upper end.
        margin: Largest difference that does not matter; 0 where every one does.

    Returns:
        better by more (than the margin), better, worse, worse by more; below the margin (zero is
        excluded, and all that is plausible is too small to matter); equivalent (zero is not
        excluded, and the same); undecided.
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
    """Seeds with which an undecided comparison is decided with a chance of 80 %.

    That is: the interval leaves zero out, or lies within the margin, were the mean and the spread
    over seeds, the choice of candidates included, as seen. Of a median roughly: as if its interval
    were that of a mean of this length. Where a median has no interval yet, the seeds that give it
    one; their verdict is open.

    Args:
        estimate: The difference, its interval at this confidence, and the pairs it comes from.
        margin: As declared.
        confidence: Of the interval.
        average: Of the seeds: "mean" or "median".

    Returns:
        At least 6; infinite above 100,000.
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
    """Chance that the interval of so many normal differences does not leave it undecided.

    Args:
        mean: The true one.
        spread: The true standard deviation.
        margin: As declared.
        pairs: How many differences.
        confidence: Of the interval.
    """
    error = spread / math.sqrt(pairs)
    if error == 0:
        return 1.0
    critical = usual_length(pairs, confidence) * error

    def between(low: float, high: float) -> float:
        return scipy.special.ndtr((high - mean) / error) - scipy.special.ndtr((low - mean) / error)

    def decided(ratio: float) -> float:  # of the sample's spread to the true one
        half = critical * ratio
        # Undecided: zero within the interval, and an end of it outside the margin.
        least = max(0.0, min(half, margin - half))
        return 1.0 - between(-half, half) + between(-least, least)

    kinks = tuple(kink / critical for kink in (margin / 2, margin, abs(mean)))
    return float(expected_over_spread(decided, pairs, kinks=kinks))


def divergence_p(mine: np.ndarray, theirs: np.ndarray) -> float:
    """Exact two-sided p that a loss diverges as often as the reference does, seed by seed.

    Args:
        mine: Whether the loss's run of each seed diverged, [S].
        theirs: The same of the reference.

    Source:
        McNemar 1947, Psychometrika, in its exact form.
    """
    only_mine, only_theirs = int((mine & ~theirs).sum()), int((theirs & ~mine).sum())
    if not only_mine + only_theirs:
        return 1.0
    return float(scipy.stats.binomtest(only_mine, only_mine + only_theirs).pvalue)
