"""What a strategy is: a way to compute outputs and gradients of all members of a pack."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from torch import Tensor

State = Mapping[str, Tensor]
"""Parameters or buffers by name, [K, ...]."""

Forward = Callable[[State, State, Tensor], Tensor]
"""Outputs [K, N, W] at (parameters, buffers, inputs [K, N, ...])."""


class Strategy(ABC):
    """A way to compute. What it returns holds until it is asked for the next output or gradient.

    Attributes:
        name: What is recorded of it.
    """

    name: str

    @abstractmethod
    def arranged(self, parameters: State) -> dict[str, Tensor]:
        """A copy of parameters as it lies best in memory."""

    @abstractmethod
    def at_once(self, inputs: Tensor) -> list[slice]:
        """Places of members that are best updated together, for a batch [K, B, ...]."""

    @abstractmethod
    def forward(self, parameters: State, buffers: State, inputs: Tensor) -> Tensor:
        """Outputs [K, N, W]. Twice differentiable by autograd, where it is enabled.

        Args:
            parameters: By name, [K, ...].
            buffers: By name, [K, ...]; those that training moves are changed in place.
            inputs: Of all members, [K, N, ...].
        """

    @abstractmethod
    def output(self, parameters: State, buffers: State, inputs: Tensor) -> Tensor:
        """Outputs [K, B, W] of a batch, with what `gradient` needs kept. Args: as `forward`."""

    @abstractmethod
    def gradient(self, slope: Tensor) -> dict[str, Tensor]:
        """Gradient of the mean loss over the last batch in all parameters, [K, ...] by name.

        The mean over the batch is taken here, nowhere else.

        Args:
            slope: d loss / d output of each example, [K, B, W].
        """
