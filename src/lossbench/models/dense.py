"""Models of vectors; other inputs are flattened to vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from lossbench.models.layers import BatchNorm, Dropout, activated, check_probability
from lossbench.models.spec import Inputs, Model, check_positive, features

NORMALISATIONS: dict[str, Callable[[int], nn.Module] | None] = {
    "none": None,
    "batch": BatchNorm,
    "layer": nn.LayerNorm,
}


def linear(inputs: Inputs, outputs: int) -> nn.Module:
    """One affine map from F inputs to C outputs."""
    numbers = features(inputs, model="linear")
    return nn.Sequential(*_flattening(inputs), nn.Linear(numbers, outputs))


def mlp(
    inputs: Inputs,
    outputs: int,
    *,
    widths: Sequence[int] = (64, 64),
    activation: str = "relu",
    normalisation: str = "none",
    dropout: float = 0.0,
) -> nn.Module:
    """A multilayer perceptron.

    Args:
        inputs: Shape of one example, which is flattened to F numbers.
        outputs: Number C of outputs.
        widths: Number of units of each hidden layer, positive; an empty list gives `linear`.
        activation: One of `ACTIVATIONS`, after each hidden layer.
        normalisation: none, batch or layer, between a hidden layer and its activation.
        dropout: Probability that a hidden unit is zeroed after its activation, in training.
    """
    if normalisation not in NORMALISATIONS:
        raise ValueError(f"normalisation {normalisation!r}: use one of {', '.join(NORMALISATIONS)}")
    check_positive([*widths], what="widths")
    check_probability(dropout)
    activated(activation)
    normalised = NORMALISATIONS[normalisation]
    layers, before = _flattening(inputs), features(inputs, model="mlp")
    for width in widths:
        layers += [nn.Linear(before, width)]
        layers += [normalised(width)] if normalised else []
        layers += [activated(activation)]
        layers += [Dropout(dropout)] if dropout else []
        before = width
    return nn.Sequential(*layers, nn.Linear(before, outputs))


def _flattening(inputs: Inputs) -> list[nn.Module]:
    return [] if isinstance(inputs, int) else [nn.Flatten()]


ROWS = (
    Model(linear, "affine map"),
    Model(mlp, "multilayer perceptron; torch's default initialisation"),
)
