"""Synthetic data whose truth is known: the posterior of a mixture, the function behind noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

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

UNIFORM_SHARE = 0.05
"""Of the uniform distribution in those of `finite_support`, so that no class is impossible."""

VALIDATION_PER_ATOM = 100
TEST_PER_ATOM = 50


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


def finite_support(
    *,
    seed: int,
    examples: int = 2000,
    atoms: int = 16,
    classes: int = 4,
    concentration: float = 1.0,
) -> Splits:
    """A few input points, each with a class distribution of its own: nothing but the loss decides.

    The inputs are one-hot, [N, A], as they are, so that model=linear has an output vector for each
    atom and can represent every Bayes point. All splits go round the atoms, each equally often.
    With examples = steps * batch_size training is one epoch, and no label is ever seen twice:
    labels are in effect resampled at every step. Distributions, validation and test do not depend
    on `examples`.

    Args:
        seed: Draws the distributions and the labels.
        examples: Rows of the training split alone: the sample size.
        atoms: A, input points.
        classes: C.
        concentration: Of the symmetric Dirichlet that the distributions are drawn from, mixed with
            `UNIFORM_SHARE` of the uniform one; small ones are nearly certain, large ones flat.

    Raises:
        ValueError: A size or the concentration is not positive, or there are fewer than two
            classes.
    """
    _check_sizes(examples=examples, atoms=atoms, concentration=concentration)
    if classes < 2:
        raise ValueError(f"{classes} classes: use 2 or more")
    draw = stream(seed, "data")
    drawn = _dirichlet((atoms, classes), concentration=concentration, draw=draw)
    distributions = (1.0 - UNIFORM_SHARE) * drawn + UNIFORM_SHARE / classes
    # Training comes last, so that what it is judged by is the same at every sample size.
    sizes = {
        "validation": VALIDATION_PER_ATOM * atoms,
        "test": TEST_PER_ATOM * atoms,
        "train": examples,
    }
    atom = {split: torch.arange(size) % atoms for split, size in sizes.items()}
    label = {
        split: torch.multinomial(distributions[rows], 1, generator=draw)[:, 0]
        for split, rows in atom.items()
    }
    return Splits(
        inputs={split: functional.one_hot(atom[split], atoms).float() for split in SPLITS},
        targets={split: functional.one_hot(label[split], classes).float() for split in SPLITS},
        task="classification",
        target_scale=1.0,
        posterior={split: distributions[atom[split]].float() for split in SPLITS},
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


def clean_linear(*, seed: int, examples: int = 1000, features: int = 8) -> Splits:
    """The linear function of `noisy_linear` without any noise: what happens near the optimum.

    Args:
        seed: Draws the slopes, the inputs and the split, the same as those of `noisy_linear`.
        examples: Rows in all.
        features: F; the function has variance 1 over them.

    Raises:
        ValueError: A size is not positive.
    """
    _check_sizes(examples=examples, features=features)
    draw = stream(seed, "data")
    slopes = torch.randn(features, generator=draw, dtype=torch.float64)
    inputs = torch.randn(examples, features, generator=draw, dtype=torch.float64)
    clean = inputs @ (slopes / slopes.norm())
    rows = permuted(examples, seed)
    return regression(
        {name: inputs[rows[name]] for name in SPLITS},
        {name: clean[rows[name], None] for name in SPLITS},
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


def _dirichlet(shape: tuple[int, int], *, concentration: float, draw: torch.Generator) -> Tensor:
    """Rows on the simplex, float64: gamma quantiles of uniform numbers, over their sum."""
    from scipy import special

    level = torch.rand(shape, generator=draw, dtype=torch.float64)
    gamma = torch.from_numpy(special.gammaincinv(concentration, level.numpy())).clamp(min=1e-300)
    return gamma / gamma.sum(-1, keepdim=True)


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
        finite_support,
        "classification",
        "generated; posterior of every input point known",
        drawn="generated",
        note="Every input point of the test split is there in training, with other labels.",
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
        clean_linear,
        "regression",
        "generated; no noise",
        drawn="generated",
        is_symmetric=True,
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
