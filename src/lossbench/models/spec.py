"""Table row that describes a model, and the shapes of a model's inputs."""

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
    """Table row of a model: `fn(inputs, outputs, **params) -> nn.Module`, and its source.

    `inputs` is the shape of one example, `outputs` the number C. The module's output is [B, C]; for
    sequences, which are whole numbers [B, T], the output is [B, T, C]. The function raises
    ValueError if the inputs or a parameter do not fit the model. Every model ends in a linear layer
    that makes its output and is the last linear layer among its modules: `widened` and `rescaled`
    change that layer.
    """

    fn: Callable[..., nn.Module]
    source: str

    @property
    def name(self) -> str:
        """Name of the model, which is the name of its function."""
        return self.fn.__name__


def features(inputs: Inputs, *, model: str) -> int:
    """Number of values in one example; ValueError, which names `model`, if inputs are tokens."""
    if isinstance(inputs, Tokens):
        raise ValueError(f"model {model} takes no {_sequences(inputs)}: use model=gpt or bigram")
    return inputs if isinstance(inputs, int) else math.prod(inputs)


def tokens_of(inputs: Inputs, *, model: str) -> Tokens:
    """Positions and vocabulary of tokens; ValueError, which names `model`, for other inputs."""
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
    """Channels, height and width of images; ValueError, which names `model`, for other inputs."""
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
    """Raise ValueError if a value is below 1; `what` names the values in the message."""
    if any(value < 1 for value in values):
        raise ValueError(f"{what} {values}: use positive numbers, like [64, 64]")
