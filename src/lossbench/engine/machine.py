"""A process that trains packs: its device, and results that its packs share."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from lossbench.engine.bayes import BayesPoints


@dataclass
class Captures:
    """State of graph capture in one process, for all packs of the process.

    Attributes:
        has_failed: Whether a recording failed; torch's allocator may not recover from a failure.
    """

    has_failed: bool = False


@dataclass(frozen=True)
class Machine:
    """A process that trains packs one after the other.

    Attributes:
        device: Device on which the process trains.
        padding: Least number of members of a pack, which decides kernels and so the bits of
            results: 2 on the CPU, one fixed number per sweep on CUDA.
        strategies: Names of optional strategies to use if possible, see `strategies.OPTIONS`.
        bayes_points: Solutions that all packs of the process share, by loss and posterior.
        captures: State of graph capture.
    """

    device: torch.device
    padding: int = 2
    strategies: tuple[str, ...] = ()
    bayes_points: BayesPoints = field(default_factory=BayesPoints, compare=False, repr=False)
    captures: Captures = field(default_factory=Captures, compare=False, repr=False)

    def __reduce__(self) -> tuple[type[Machine], tuple[torch.device, int, tuple[str, ...]]]:
        """Pickle without the shared results, which another process computes itself."""
        return Machine, (self.device, self.padding, self.strategies)
