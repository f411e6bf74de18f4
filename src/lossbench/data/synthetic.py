"""Synthetic data whose truth is known: the posterior of a mixture, the function behind noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lossbench.data.splits import (
    SPLITS,
    Data,
    Splits,
    classification,
    permuted,
    regression,
    standardised,
)
from lossbench.pairing import stream

NOISES = ("gaussian", "student_t")


def gaussian_mixture(
    *,
    seed: int,
    examples: int = 2000,
    features: int = 10,
    classes: int = 5,
    separation: float = 1.0,
) -> Splits:
    """One unit-variance Gaussian per class, so that the true posterior is known.

    Args:
        seed: Draws the class means, the examples and the split.
        examples: Rows in all.
        features: F.
        classes: C, equally likely.
        separation: Standard deviation of each coordinate of the class means.

    Raises:
        ValueError: A size is not positive or there are fewer than two classes.
    """
    _check_sizes(examples=examples, features=features)
    if classes < 2 or separation < 0:
        raise ValueError(f"{classes} classes, separation {separation}: use 2 or more, and >= 0")
    draw = stream(seed, "data")
    means = separation * torch.randn(classes, features, generator=draw, dtype=torch.float64)
    labels = torch.randint(classes, (examples,), generator=draw)
    noise = torch.randn(examples, features, generator=draw, dtype=torch.float64)
    inputs = means[labels] + noise
    posterior = (inputs @ means.T - 0.5 * means.square().sum(-1)).softmax(-1)
    rows = permuted(examples, seed)
    return classification(
        {name: inputs[index] for name, index in rows.items()},
        {name: labels[index] for name, index in rows.items()},
        classes=classes,
        posterior={name: posterior[index] for name, index in rows.items()},
    )


def noisy_linear(
    *,
    seed: int,
    examples: int = 1000,
    features: int = 8,
    noise: str = "gaussian",
    noise_scale: float = 1.0,
    degrees: float = 3.0,
) -> Splits:
    """A linear function seen through noise; the test targets are the function itself.

    Train and validation targets carry the noise, as they would in life. Test scores therefore
    measure the distance to the truth, not to another draw of the noise.

    Args:
        seed: Draws the slopes, the inputs, the noise and the split.
        examples: Rows in all.
        features: F; the function has variance 1 over them.
        noise: "gaussian" or "student_t". Both are symmetric, so that every symmetric loss whose
            expectation exists elicits the function; that of quartic under 3 degrees does not.
        noise_scale: Scale of the noise in units of the function's standard deviation.
        degrees: Degrees of freedom of "student_t"; at 2 or below the variance is infinite.

    Raises:
        ValueError: Unknown noise, or a size, scale or number of degrees that is not positive.
    """
    _check_sizes(examples=examples, features=features, noise_scale=noise_scale, degrees=degrees)
    draw = stream(seed, "data")
    slopes = torch.randn(features, generator=draw, dtype=torch.float64)
    inputs = torch.randn(examples, features, generator=draw, dtype=torch.float64)
    clean = inputs @ (slopes / slopes.norm())
    noisy = clean + noise_scale * _noise(noise, examples, degrees=degrees, draw=draw)
    seen = {"train": noisy, "validation": noisy, "test": clean}
    rows = permuted(examples, seed)
    return regression(
        {name: inputs[rows[name]] for name in SPLITS},
        {name: seen[name][rows[name], None] for name in SPLITS},
    )


def noisy_counts(
    *, seed: int, examples: int = 1000, features: int = 8, rate: float = 3.0, spread: float = 0.5
) -> Splits:
    """Poisson counts whose log-rate is linear in the inputs; the test targets are the rate.

    Targets are divided by their standard deviation in training but not centred, so that they stay
    nonnegative. To the Poisson likelihood that is a factor, and a constant added to the output.

    Args:
        seed: Draws the slopes, the inputs, the counts and the split.
        examples: Rows in all.
        features: F.
        rate: Expected count where the inputs are zero.
        spread: Standard deviation of the log-rate over the inputs.

    Raises:
        ValueError: A size, rate or spread is not positive.
    """
    _check_sizes(examples=examples, features=features, rate=rate, spread=spread)
    draw = stream(seed, "data")
    slopes = torch.randn(features, generator=draw, dtype=torch.float64)
    inputs = torch.randn(examples, features, generator=draw, dtype=torch.float64)
    expected = rate * torch.exp(spread * (inputs @ (slopes / slopes.norm())))
    counts = torch.poisson(expected, generator=draw)
    seen = {"train": counts, "validation": counts, "test": expected}
    rows = permuted(examples, seed)
    scale = counts[rows["train"]].std(correction=0).clamp(min=1e-12)
    return Splits(
        inputs=standardised({name: inputs[rows[name]] for name in SPLITS})[0],
        targets={name: (seen[name][rows[name], None] / scale).float() for name in SPLITS},
        task="regression",
        target_scale=float(scale),
    )


def _noise(noise: str, count: int, *, degrees: float, draw: torch.Generator) -> Tensor:
    normal = torch.randn(count, generator=draw, dtype=torch.float64)
    if noise == "gaussian":
        return normal
    if noise == "student_t":
        # Bailey 1994: sqrt(d (u^(-2/d) - 1)) cos(2 pi v) has Student's t distribution.
        first, second = torch.rand(2, count, generator=draw, dtype=torch.float64)
        radius = (degrees * ((1 - first).pow(-2 / degrees) - 1)).sqrt()
        return radius * torch.cos(2 * math.pi * second)
    raise ValueError(f"noise {noise!r} is unknown: use one of {', '.join(NOISES)}")


def _check_sizes(**sizes: float) -> None:
    for name, size in sizes.items():
        if not size > 0:
            raise ValueError(f"{name} is {size}: use a positive number")


ROWS = (
    Data(
        gaussian_mixture,
        "classification",
        "generated; posterior known in closed form",
        drawn="generated",
    ),
    Data(
        noisy_linear,
        "regression",
        "generated; noise-free function known",
        drawn="generated",
        is_symmetric=True,
        note="Test targets are the function without noise; train and validation carry the noise.",
    ),
    Data(
        noisy_counts,
        "regression",
        "generated; rate behind the counts known",
        drawn="generated",
        domain="nonnegative",
        note="Test targets are the rates; train and validation are counts.",
    ),
)
