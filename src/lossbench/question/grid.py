"""Candidates of every loss: rates that grow at their ends, and other parameters beside them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

SIDES = ("below", "above")
DECADE = 10.0
"""Ratio in which a grid of a single rate goes on."""


@dataclass(frozen=True)
class Grid:
    """Learning rates of one task: those declared, and how many were added at either end.

    Attributes:
        declared: At least one rate, ascending.
        below, above: Rates added at the lower and at the upper end.
    """

    declared: tuple[float, ...]
    below: int = 0
    above: int = 0

    @property
    def rates(self) -> tuple[float, ...]:
        """All rates, ascending; those added go on in the ratio of the outermost declared two."""
        low, high = self.declared[0], self.declared[-1]
        down, up = self._ratios
        lower = [_short(low / down**k) for k in range(self.below, 0, -1)]
        upper = [_short(high * up**k) for k in range(1, self.above + 1)]
        return (*lower, *self.declared, *upper)

    @property
    def _ratios(self) -> tuple[float, float]:
        if len(self.declared) < 2:
            return DECADE, DECADE
        (low, next_low), (next_high, high) = self.declared[:2], self.declared[-2:]
        return next_low / low, high / next_high

    def grown(self, side: str) -> Grid:
        """The grid with one rate more on a side, "below" or "above"."""
        return replace(self, **{side: getattr(self, side) + 1})

    def end(self, side: str) -> float:
        """The outermost rate of a side."""
        return self.rates[0 if side == "below" else -1]

    def divided(self, parts: int) -> tuple[float, ...]:
        """Every rate in `parts`: itself, and geometric steps from it towards the next one.

        A loss with fewer other parameters to tune gets more learning rates: so every loss
        tries the same number of candidates.
        """
        down, up = self._ratios
        between = [after / rate for rate, after in itertools.pairwise(self.declared)]
        ratios = [down] * self.below + between + [up] * (1 + self.above)
        return tuple(
            rate if k == 0 else float(f"{rate * ratio ** (k / parts):.6g}")
            for rate, ratio in zip(self.rates, ratios, strict=True)
            for k in range(parts)
        )


def spread(rates: Sequence[float], count: int) -> list[float]:
    """`count` rates in equal ratios from the least to the greatest; one alone stays as it is.

    Args:
        rates: At least one, positive.
        count: How many are wanted; a single one is that in the middle.
    """
    low, high = min(rates), max(rates)
    if low == high or count == 1:
        return [_short(math.sqrt(low * high))]
    ratio = (high / low) ** (1 / (count - 1))
    return [_short(low * ratio**k) for k in range(count)]


def _short(rate: float) -> float:
    """A rate with two digits: 0.000024 rather than 0.00002380952."""
    return float(f"{rate:.2g}")


@dataclass(frozen=True)
class Candidate:
    """One point that tuning tries: a learning rate and the other tuned values, by key."""

    lr: float
    others: tuple[tuple[str, Any], ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """Values by the key that sets them."""
        return {"optimizer.lr": self.lr, **dict(self.others)}


def candidates(
    grid: Grid, others: Mapping[str, Sequence[object]], applicable: Sequence[str]
) -> list[Candidate]:
    """The candidates of a loss: as many as every other loss of its context has.

    Args:
        grid: Learning rates of the task.
        others: Values by key of everything else that is tuned, for all losses.
        applicable: Those keys that the loss has.

    Returns:
        `len(grid.rates)` times the product of all numbers of values, in ascending order of rate.
    """
    every = math.prod(len(values) for values in others.values())
    has = math.prod(len(others[key]) for key in applicable)
    pairs = [[(key, value) for value in others[key]] for key in applicable]
    every_one = [
        Candidate(rate, chosen)
        for rate in grid.divided(every // has)
        for chosen in itertools.product(*pairs)
    ]
    # By text, so that they come in one order whatever their values are.
    return sorted(every_one, key=lambda tried: (tried.lr, [f"{k}={v}" for k, v in tried.others]))
