"""Interfaces of strategies: `Strategy` computes outputs and gradients, `Advance` makes updates."""

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
"""Function from an output gradient [K, B, W] to the gradient of the mean loss in all parameters,
[K, ...] by name; a call may overwrite the gradient of the call before."""


class Strategy(ABC):
    """Strategy to compute outputs and gradients of adjacent members of a pack.

    Attributes:
        name: Name in the records.
    """

    name: str

    @abstractmethod
    def arranged(self, parameters: Named) -> dict[str, Tensor]:
        """Copy of parameters in the memory layout that is fastest for the strategy."""

    @abstractmethod
    def spans(self, count: int, rows: int, like: Tensor) -> list[slice]:
        """Slices of `count` adjacent members that are best updated together, on batches of `rows`.

        `like` has the device and type of the members.
        """

    @abstractmethod
    def memory(self, parameters: Named, rows: int) -> Any:
        """Memory into which `trained` writes, for these parameters and this number of rows."""

    @abstractmethod
    def forward(self, parameters: Named, buffers: Named, inputs: Tensor) -> Tensor:
        """Outputs [K, N, W] of inputs [K, N, ...], twice differentiable if gradients are enabled.

        In training mode the buffers may change in place.
        """

    @abstractmethod
    def trained(
        self, parameters: Named, buffers: Named, batch: Batch, memory: Any
    ) -> tuple[Tensor, GradientOf]:
        """Outputs [K, B, W] of a batch, and a function from output gradients to gradients.

        Only this function takes the mean over the batch. In training mode the buffers may change in
        place. Each gradient overwrites the gradient before in `memory`; to keep the values, give
        other memory to the next call.
        """


class Logged(NamedTuple):
    """Values of one update for the tables `steps` and `layers`.

    Attributes:
        steps: Values by column (see `probes.STEP_COLUMNS`) and member, [columns, K].
        layers: Values by layer, column (see `probes.LAYER_COLUMNS`) and member, [L, columns, K].
    """

    steps: Tensor
    layers: Tensor


class Advance(ABC):
    """Strategy to make the updates of a pack, possibly many updates without the host in between.

    Attributes:
        name: Name in the records; empty if every update was launched separately.
        max_updates: Largest number of updates to make in one call.
    """

    name: str
    max_updates: int

    @abstractmethod
    def advance(self, state: State, count: int) -> None:
        """Make `count` updates of a state in place, without logging."""

    @abstractmethod
    def logged(self, state: State) -> Logged:
        """Make one update of a state in place, and return the logged values of the update."""
