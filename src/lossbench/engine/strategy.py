"""Interfaces: a way to compute outputs and gradients, and a way to make many updates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from lossbench.engine.batches import Batch
from lossbench.engine.state import State

Named = Mapping[str, Tensor]
"""Parameters, buffers or gradients by name, [K, ...]."""

GradientOf = Callable[[Tensor], dict[str, Tensor]]
"""Gradient of the mean loss in all parameters, [K, ...] by name, from an output gradient [K, B, W];
it may overwrite the gradient of the call before."""


class Strategy(ABC):
    """A way to compute outputs and gradients of neighbours in a pack.

    Attributes:
        name: Name in the records.
    """

    name: str

    @abstractmethod
    def arranged(self, parameters: Named) -> dict[str, Tensor]:
        """A copy of parameters, in the memory layout that the strategy is quickest with."""

    @abstractmethod
    def spans(self, count: int, rows: int, like: Tensor) -> list[slice]:
        """Neighbours that are best updated together.

        Args:
            count: How many neighbours there are.
            rows: Examples of a batch, B.
            like: A tensor of their device and type.
        """

    @abstractmethod
    def memory(self, parameters: Named, rows: int) -> Any:
        """Memory for `trained` to write into, for these parameters and so many rows."""

    @abstractmethod
    def forward(self, parameters: Named, buffers: Named, inputs: Tensor) -> Tensor:
        """Outputs [K, N, W]. Twice differentiable by autograd, where it is enabled.

        Args:
            parameters: By name, [K, ...].
            buffers: By name, [K, ...]; those that training moves are changed in place.
            inputs: Of the same members, [K, N, ...].
        """

    @abstractmethod
    def trained(
        self, parameters: Named, buffers: Named, batch: Batch, memory: Any
    ) -> tuple[Tensor, GradientOf]:
        """Outputs [K, B, W] of a batch, and a function from output gradients to gradients.

        The mean over the batch is taken by the latter, nowhere else.

        Args:
            parameters: By name, [K, ...], as `arranged`.
            buffers: By name, [K, ...]; those that training moves are changed in place.
            batch: Of the same members.
            memory: Where outputs and gradients may lie: each gradient takes the place of the one
                before. Who goes on using them gives other memory to the next call.
        """


class Logged(NamedTuple):
    """Values of one update for the tables `steps` and `layers`.

    Attributes:
        steps: By column, see `probes.STEP_COLUMNS`, and member, [columns, K].
        layers: By layer, column, see `probes.LAYER_COLUMNS`, and member, [L, columns, K].
    """

    steps: Tensor
    layers: Tensor


class Advance(ABC):
    """A way to make the updates of a pack, perhaps many of them without the host between two.

    Attributes:
        name: Name in the records; empty where every update was made on its own.
        max_updates: Updates that are best made in one call.
    """

    name: str
    max_updates: int

    @abstractmethod
    def advance(self, state: State, count: int) -> None:
        """Make so many updates of a state, in place, of which nothing is logged."""

    @abstractmethod
    def logged(self, state: State) -> Logged:
        """Make one update of a state, in place, and return its logged values."""
