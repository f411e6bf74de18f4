"""State of a pack between two updates: input and output of an update, and a checkpoint."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

FORMAT = 4
"""Version of the layout of checkpoints. A pack whose checkpoint has another one begins again."""


@dataclass(frozen=True)
class State:
    """Tensors that the next update of K members depends on; they stay where they are in memory.

    Attributes:
        parameters: By name, [K, ...], in the strategy's memory layout.
        buffers: By name, [K, ...].
        optimizer: Buffers of the optimizer by its name for them, then by parameter, [K, ...].
        alive: [K], false from when a member diverged or failed: it stays as it is then.
        stop_step: [K], updates a member has done.
        clock: [1], updates done.
    """

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    optimizer: dict[str, dict[str, Tensor]]
    alive: Tensor
    stop_step: Tensor
    clock: Tensor

    @property
    def values(self) -> dict[str, Any]:
        """Attributes of the state by name, as tensors and plain dictionaries of tensors."""
        return {**vars(self), "parameters": dict(self.parameters)}

    def freeze(self, is_finite: Tensor) -> None:
        """Let members go on only where [K] says so."""
        self.alive.logical_and_(is_finite)

    def write(self, values: Mapping[str, Any]) -> None:
        """Take over the values of another state, given as `values`."""
        _write(values["parameters"], self.parameters)
        _write(values["buffers"], self.buffers)
        for name, buffers in self.optimizer.items():
            _write(values["optimizer"][name], buffers)
        self.alive.copy_(values["alive"])
        self.stop_step.copy_(values["stop_step"])
        self.clock.copy_(values["clock"])


def _write(values: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> None:
    for name, tensor in into.items():
        tensor.copy_(values[name])


@dataclass(frozen=True)
class Saved:
    """Snapshot of a pack, from which training goes on with the same bits.

    Attributes:
        step: Updates done.
        checkpoint: State of the pack, the seconds spent, and failures of members.
        parts: Measurements, each part since the one before.
    """

    step: int
    checkpoint: bytes
    parts: tuple[bytes, ...]


Snapshot = Callable[[], Saved]
"""Takes a snapshot of the present state; its one part holds the measurements since the last one."""


def encoded(values: Any) -> bytes:
    """Tensors and plain types as bytes."""
    content = io.BytesIO()
    torch.save(values, content)  # to memory first: on a full disk it would leave half a file
    return content.getvalue()


def decoded(content: bytes, *, device: torch.device) -> Any:
    """Values from the bytes of `encoded`; nothing but tensors and plain types is ever read."""
    return torch.load(io.BytesIO(content), weights_only=True, map_location=device)
