"""What is done to training inputs, batch by batch: drawn by the seed, the same for every loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def none(inputs: Tensor, *, draw: torch.Generator) -> Tensor:
    """Leave the inputs as they are."""
    return inputs


AUGMENTATIONS: dict[str, Callable[..., Tensor]] = {"none": none}
