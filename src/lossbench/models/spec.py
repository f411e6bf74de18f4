"""A model's row, and what a model is told of its inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

Inputs = int | tuple[int, int, int]
"""Shape of one example: F numbers, or an image's (channels, height, width)."""


@dataclass(frozen=True)
class Model:
    """A model's row: `fn(inputs, outputs, **params) -> nn.Module`, and its source.

    `inputs` is the shape of one example, `outputs` the number C. The function raises ValueError
    where it cannot serve such inputs, or refuses a parameter. Every model ends in a linear layer
    that makes its output and is the last one among its modules: `widened` and `rescaled` work on
    that.
    """

    fn: Callable[..., nn.Module]
    source: str

    @property
    def name(self) -> str:
        """The function's name."""
        return self.fn.__name__


def features(inputs: Inputs) -> int:
    """Numbers of one example."""
    return inputs if isinstance(inputs, int) else math.prod(inputs)


def image_of(inputs: Inputs, *, model: str) -> tuple[int, int, int]:
    """Channels, height and width, for a model of that name; ValueError where inputs are vectors."""
    if isinstance(inputs, int):
        raise ValueError(
            f"model {model} needs images, the inputs are vectors of {inputs} numbers: "
            "use data of images, or model=mlp"
        )
    return inputs


def check_positive(values: list[int], *, what: str) -> None:
    """Refuse sizes below 1 with a ValueError."""
    if any(value < 1 for value in values):
        raise ValueError(f"{what} {values}: use positive numbers, like [64, 64]")
