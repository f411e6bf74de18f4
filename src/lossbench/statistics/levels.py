"""Alpha spending: the error of the interval at each look at a growing number of seeds."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import scipy


@functools.lru_cache(maxsize=4096)
def nominal_levels(looks: tuple[int, ...], error: float) -> tuple[float, ...]:
    """Two-sided error of the interval at each look, so that all intervals together spend `error`.

    The error spent up to a look is proportional to the number of seeds. After an interval has
    missed, later misses do not count again, so the levels sum to more than `error`. The interval
    at each look is valid for any reason to stop or to continue.

    Args:
        looks: Numbers of seeds, ascending.
        error: Chance, at most, that any of the intervals misses a true value.

    Returns:
        Errors by look, each for a t or normal interval; `error` itself if there is one look.

    Source:
        Armitage, McPherson and Rowe 1969, JRSS A, for the recursion; Lan and DeMets 1983,
        Biometrika, for spending; Jennison and Turnbull 1989, JRSS B, for repeated intervals.
    """
    nodes, weights = _nodes()
    levels: list[float] = []
    sums, mass = np.zeros(1), np.ones(1)  # distribution of the sum while no interval has missed
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
    """Nodes and weights of Gauss-Legendre quadrature over [-1, 1]."""
    return np.polynomial.legendre.leggauss(200)


def _excess(
    bound: float, sums: np.ndarray, mass: np.ndarray, deviation: float, share: float
) -> float:
    """Chance that the sum leaves its bounds at this look, minus `share`, the error to spend."""
    # Not by scipy.stats, whose checks of arguments take longer than the computation.
    outside = scipy.special.ndtr((sums - bound) / deviation)
    outside += scipy.special.ndtr((-bound - sums) / deviation)
    return float(outside @ mass) - share


def level_at(look: int, looks: Sequence[int], *, confidence: float, comparisons: int) -> float:
    """Confidence of one interval at a look, simultaneous over looks and comparisons (Bonferroni).

    Args:
        look: Index in `looks`, from 0.
        looks: Numbers of seeds, ascending.
        confidence: Simultaneous coverage of all intervals.
        comparisons: Number of comparisons at each look.
    """
    return 1 - nominal_levels(tuple(looks) or (1,), (1 - confidence) / comparisons)[look]


SMALLEST, LARGEST = 1e-12, 0.99
"""Limits of adjustment: p-values up to SMALLEST stay unchanged, those above LARGEST become 1."""


def adjust_for_looks(p: float, look: int, looks: Sequence[int]) -> float:
    """Adjust a two-sided p-value for stopping at any of the looks.

    The result is the least error, spent over the looks, at which the interval of this look excludes
    the tested value: the p-value that belongs to `nominal_levels`.

    Args:
        p: P-value of this look alone.
        look: Index of the look in `looks`, from 0.
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
    """Index of the last look that a number of seeds reaches; 0 if it reaches no look."""
    return max(0, sum(seeds >= look for look in looks) - 1)
