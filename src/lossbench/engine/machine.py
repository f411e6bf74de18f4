"""A process that trains packs: its device, and results that its packs share."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from lossbench.engine.bayes import BayesPoints


@dataclass
class Captures:
    """Graph capture in one process, over all its packs.

    Attributes:
        has_failed: Whether a recording failed; torch's allocator may not recover from that.
    """

    has_failed: bool = False


@dataclass(frozen=True)
class Machine:
    """A process that trains packs one after the other.

    Attributes:
        device: Where it trains.
        padding: Least number of members; kernels, and with them bits, are chosen by it: 2 on the
            CPU, one fixed number per sweep on CUDA.
        strategies: Names of optional strategies to use where they serve, see `strategies.OPTIONS`.
        bayes_points: Solutions that its packs share, by loss and posterior.
        captures: State of graph capture.
    """

    device: torch.device
    padding: int = 2
    strategies: tuple[str, ...] = ()
    bayes_points: BayesPoints = field(default_factory=BayesPoints, compare=False, repr=False)
    captures: Captures = field(default_factory=Captures, compare=False, repr=False)

    def __reduce__(self) -> tuple[type[Machine], tuple[torch.device, int, tuple[str, ...]]]:
        """A pickle without shared results: another process works them out itself."""
        return Machine, (self.device, self.padding, self.strategies)
