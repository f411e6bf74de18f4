"""A model's row, and the shapes of its inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from lossbench.data.splits import Tokens

Inputs = int | tuple[int, int, int] | Tokens
"""Shape of one example: F numbers, an image's (channels, height, width), or T tokens of V kinds."""


@dataclass(frozen=True)
class Model:
    """A model's row: `fn(inputs, outputs, **params) -> nn.Module`, and its source.

    `inputs` is the shape of one example, `outputs` the number C. The module's output is [B, C]; of
    sequences, [B, T] whole numbers, it is [B, T, C]. The function raises ValueError
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


def features(inputs: Inputs, *, model: str) -> int:
    """Numbers of one example, for a model of that name; ValueError where inputs are tokens."""
    if isinstance(inputs, Tokens):
        raise ValueError(f"model {model} takes no {_sequences(inputs)}: use model=gpt or bigram")
    return inputs if isinstance(inputs, int) else math.prod(inputs)


def tokens_of(inputs: Inputs, *, model: str) -> Tokens:
    """Positions and vocabulary, for a model of that name; ValueError where there are no tokens."""
    if isinstance(inputs, Tokens):
        return inputs
    what = f"vectors of {inputs} numbers" if isinstance(inputs, int) else "images"
    raise ValueError(
        f"model {model} needs sequences of tokens, the inputs are {what}: use data=markov_text or "
        "another of sequences, or model=mlp"
    )


def _sequences(inputs: Tokens) -> str:
    return f"sequences of {inputs.positions} tokens"


def image_of(inputs: Inputs, *, model: str) -> tuple[int, int, int]:
    """Channels, height and width, for a model of that name; ValueError where none are there."""
    if isinstance(inputs, Tokens):
        raise ValueError(
            f"model {model} needs images, the inputs are {_sequences(inputs)}: use model=gpt"
        )
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
