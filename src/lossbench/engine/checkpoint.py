"""The state of a pack between two updates as bytes, and back: tensors and plain types only."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Saved:
    """What a pack needs to go on as if nothing had happened.

    Attributes:
        step: Updates done.
        checkpoint: All that the next update depends on.
        parts: What was measured, each since the one before.
    """

    step: int
    checkpoint: bytes
    parts: tuple[bytes, ...]


Snapshot = Callable[[], Saved]
"""Takes the present state; its one part is what was measured since the last time."""


def encoded(state: Any) -> bytes:
    """Tensors and plain types as bytes."""
    content = io.BytesIO()
    torch.save(state, content)  # to memory first: on a full disk it would leave half a file
    return content.getvalue()


def decoded(content: bytes, *, device: torch.device) -> Any:
    """What `encoded` was given; nothing but tensors and plain types is ever read."""
    return torch.load(io.BytesIO(content), weights_only=True, map_location=device)
