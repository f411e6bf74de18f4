"""The error that each look at a growing number of seeds may spend."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import scipy


@functools.lru_cache(maxsize=4096)
def nominal_levels(looks: tuple[int, ...], error: float) -> tuple[float, ...]:
    """Two-sided error of the interval at each look, so that all of them together spend `error`.

    Up to each look the error spent grows in proportion to the seeds. Where the first interval is
    left to err, the later ones do not count: so the levels sum to more than `error`. An interval at
    each look is valid for any reason to stop or go on.

    Args:
        looks: Numbers of seeds, ascending.
        error: Chance, at most, that any of the intervals misses a true value.

    Returns:
        Errors by look, each for a t or normal interval; of a single look `error` itself.

    Source:
        Armitage, McPherson and Rowe 1969, JRSS A, for the recursion; Lan and DeMets 1983,
        Biometrika, for spending; Jennison and Turnbull 1989, JRSS B, for repeated intervals.
    """
    nodes, weights = _nodes()
    levels: list[float] = []
    sums, mass = np.zeros(1), np.ones(1)  # of normal values so far, while no interval has missed
    for count, more in zip(looks, np.diff((0, *looks)), strict=True):
        share = error * more / looks[-1]
        bound = scipy.optimize.brentq(
            _excess, 0.0, 20 * count**0.5, args=(sums, mass, more**0.5, share)
        )
        levels.append(float(2 * scipy.special.ndtr(-bound / count**0.5)))
        following = bound * nodes
        away = (following[:, None] - sums) / more**0.5
        density = np.exp(-0.5 * away**2) @ mass / (2 * np.pi * more) ** 0.5
        sums, mass = following, density * weights * bound
    return tuple(levels)


@functools.cache
def _nodes() -> tuple[np.ndarray, np.ndarray]:
    """Of a quadrature over [-1, 1], with their weights."""
    return np.polynomial.legendre.leggauss(200)


def _excess(
    bound: float, sums: np.ndarray, mass: np.ndarray, deviation: float, share: float
) -> float:
    """Chance that the sum leaves its bounds at this look, beyond the share it may have."""
    # Not by scipy.stats, whose checks of arguments take longer than the numbers.
    outside = scipy.special.ndtr((sums - bound) / deviation)
    outside += scipy.special.ndtr((-bound - sums) / deviation)
    return float(outside @ mass) - share


def level_at(look: int, looks: Sequence[int], *, confidence: float, comparisons: int) -> float:
    """Confidence of one interval at a look, simultaneous over looks and comparisons (Bonferroni).

    Args:
        look: Place in `looks`, from 0.
        looks: Numbers of seeds, ascending.
        confidence: Of all intervals together.
        comparisons: How many there are at each look.
    """
    return 1 - nominal_levels(tuple(looks) or (1,), (1 - confidence) / comparisons)[look]


SMALLEST, LARGEST = 1e-12, 0.99
"""P-values outside these are left as they are, or called 1."""


def adjust_for_looks(p: float, look: int, looks: Sequence[int]) -> float:
    """A two-sided p-value that holds for a look at which somebody may have stopped.

    It is the least error, spent over the looks, at which the interval of this look leaves out the
    tested value: the p-value that belongs to `nominal_levels`.

    Args:
        p: Of this look alone.
        look: Its place in `looks`, from 0.
        looks: Numbers of seeds, ascending.

    Source:
        Jennison and Turnbull 1989, JRSS B, section 4.
    """
    if len(looks) < 2 or not SMALLEST < p < 1:
        return p

    def excess(logarithm: float) -> float:
        return float(np.log(nominal_levels(tuple(looks), np.exp(logarithm))[look] / p))

    low, high = np.log(p), np.log(LARGEST)
    if low >= high or excess(high) <= 0:
        return 1.0
    return float(np.exp(scipy.optimize.brentq(excess, low, high, xtol=1e-3)))


def look_of(seeds: int, looks: Sequence[int]) -> int:
    """Place of the last look that so many seeds reach; 0 where they reach none."""
    return max(0, sum(seeds >= look for look in looks) - 1)
