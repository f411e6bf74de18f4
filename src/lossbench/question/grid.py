"""Candidates of every loss: a grid of learning rates that can grow, and other tuned values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

SIDES = ("below", "above")
DECADE = 10.0
"""Ratio between neighbouring rates of a grid with a single declared rate."""


@dataclass(frozen=True)
class Grid:
    """Learning rates of one task: declared rates, and numbers of rates added at each end.

    Attributes:
        declared: At least one rate, ascending.
        below, above: Numbers of rates added at the lower and at the upper end.
    """

    declared: tuple[float, ...]
    below: int = 0
    above: int = 0

    @property
    def rates(self) -> tuple[float, ...]:
        """All rates, ascending; added rates continue the ratio of the two rates at that end."""
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
        """Grid with one more rate on a side, "below" or "above"."""
        return replace(self, **{side: getattr(self, side) + 1})

    def end(self, side: str) -> float:
        """Outermost rate on a side, "below" or "above"."""
        return self.rates[0 if side == "below" else -1]

    def divided(self, parts: int) -> tuple[float, ...]:
        """Every rate, each followed by `parts - 1` rates in geometric steps towards the next rate.

        A loss with fewer other parameters to tune gets more learning rates, so that every loss
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
    """Rates in equal ratios from the least to the greatest of the given rates.

    Args:
        rates: At least one positive rate; if all are equal, the result is that single rate.
        count: Number of rates in the result; 1 gives the geometric mean of both ends.
    """
    low, high = min(rates), max(rates)
    if low == high or count == 1:
        return [_short(math.sqrt(low * high))]
    ratio = (high / low) ** (1 / (count - 1))
    return [_short(low * ratio**k) for k in range(count)]


def _short(rate: float) -> float:
    """Rate rounded to two significant digits: 0.000024 rather than 0.00002380952."""
    return float(f"{rate:.2g}")


@dataclass(frozen=True)
class Candidate:
    """One point that tuning tries: a learning rate and the other tuned values, by key."""

    lr: float
    others: tuple[tuple[str, object], ...] = ()

    @property
    def settings(self) -> dict[str, object]:
        """Values by the key that sets them."""
        return {"optimizer.lr": self.lr, **dict(self.others)}


def candidates(
    grid: Grid, others: Mapping[str, Sequence[object]], applicable: Sequence[str]
) -> list[Candidate]:
    """Candidates of a loss; all losses of a context get the same number of candidates.

    Args:
        grid: Learning rates of the task.
        others: Values by key of all other tuned keys of any loss.
        applicable: Keys of `others` that the loss has.

    Returns:
        Candidates by ascending rate: `len(grid.rates)` times the product of the numbers of values.
    """
    every = math.prod(len(values) for values in others.values())
    has = math.prod(len(others[key]) for key in applicable)
    pairs = [[(key, value) for value in others[key]] for key in applicable]
    every_one = [
        Candidate(rate, chosen)
        for rate in grid.divided(every // has)
        for chosen in itertools.product(*pairs)
    ]
    # Values are sorted as text, so that values of any type have an order.
    return sorted(every_one, key=lambda tried: (tried.lr, [f"{k}={v}" for k, v in tried.others]))
