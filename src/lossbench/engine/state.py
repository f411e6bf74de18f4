"""State of a pack between two updates: input and output of an update, and a checkpoint."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

FORMAT = 4
"""Version of the layout of checkpoints; a pack starts again if its checkpoint has another one."""


@dataclass(frozen=True)
class State:
    """Tensors on which the next update of K members depends, at fixed addresses in memory.

    Attributes:
        parameters: By name, [K, ...], in the strategy's memory layout.
        buffers: By name, [K, ...].
        optimizer: Buffers of the optimizer, by name of the buffer, then by parameter, [K, ...].
        alive: [K], false once a member has diverged or failed; the member is then frozen.
        stop_step: [K], number of updates that a member has done.
        clock: [1], number of updates done.
    """

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    optimizer: dict[str, dict[str, Tensor]]
    alive: Tensor
    stop_step: Tensor
    clock: Tensor

    @property
    def values(self) -> dict[str, object]:
        """Attributes of the state by name, as tensors and plain dictionaries of tensors."""
        return {**vars(self), "parameters": dict(self.parameters)}

    def freeze(self, is_finite: Tensor) -> None:
        """Freeze the members whose flag in `is_finite` [K] is false."""
        self.alive.logical_and_(is_finite)

    def write(self, values: Mapping[str, Any]) -> None:
        """Copy into this state the values of another state, given as its `values`."""
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
        parts: Measurements; each part has the measurements since the part before.
    """

    step: int
    checkpoint: bytes
    parts: tuple[bytes, ...]


Snapshot = Callable[[], Saved]
"""Function that takes a snapshot, whose one part has the measurements since the last snapshot."""


def encoded(values: object) -> bytes:
    """Tensors and plain types as bytes."""
    content = io.BytesIO()
    # to memory first, because a full disk would be left with half a file
    torch.save(values, content)
    return content.getvalue()


def decoded(content: bytes, *, device: torch.device) -> Any:
    """Values from the bytes of `encoded`; only tensors and plain types are read."""
    return torch.load(io.BytesIO(content), weights_only=True, map_location=device)
