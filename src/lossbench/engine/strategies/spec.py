"""What a strategy is: a way to compute outputs and gradients of all members of a pack."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from lossbench.engine.members import Batch, Members

Named = Mapping[str, Tensor]
"""Parameters, buffers or gradients by name, [K, ...]."""


class Strategy(ABC):
    """A way to compute. What it returns holds until it is asked for the next output or gradient."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What is recorded of it."""

    @abstractmethod
    def arranged(self, parameters: Named) -> dict[str, Tensor]:
        """A copy of parameters as it lies best in memory."""

    @abstractmethod
    def apart(self, members: Members) -> list[slice]:
        """Places of members whose update is whole before that of the next ones begins."""

    @abstractmethod
    def at_once(self, count: int, inputs: Tensor) -> list[slice]:
        """Of these, places of members whose parameters are best updated together.

        Args:
            count: Of those whose output is computed together.
            inputs: A batch of any of them, [n, B, ...].
        """

    @abstractmethod
    def forward(self, parameters: Named, buffers: Named, inputs: Tensor) -> Tensor:
        """Outputs [K, N, W]. Twice differentiable by autograd, where it is enabled.

        Args:
            parameters: By name, [K, ...].
            buffers: By name, [K, ...]; those that training moves are changed in place.
            inputs: Of the same members, [K, N, ...].
        """

    @abstractmethod
    def output(self, parameters: Named, buffers: Named, batch: Batch) -> Tensor:
        """Outputs [K, B, W] of a batch, with what `gradient` needs kept.

        Args:
            parameters: By name, [K, ...].
            buffers: By name, [K, ...]; those that training moves are changed in place.
            batch: Of the same members.
        """

    @abstractmethod
    def gradient(self, output_gradient: Tensor) -> dict[str, Tensor]:
        """Gradient of the mean loss over the last batch in all parameters, [K, ...] by name.

        The mean over the batch is taken here, nowhere else.

        Args:
            output_gradient: d loss / d output of each example, [K, B, W].
        """
