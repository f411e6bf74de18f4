"""Negative log-likelihoods of distributions other than the Gaussian of fixed variance, in nats.

Every function takes output and target, [..., C] each, and returns the loss per example, [...],
summed over targets, without the terms that depend on the target alone.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from lossbench.losses.links import (
    LARGEST_EXPONENT,
    bin_edges,
    capped_exp,
    of_each_target,
    softplus,
)
from lossbench.losses.softmax import log_softmax
from lossbench.losses.spec import Loss


def poisson_nll(output: Tensor, target: Tensor) -> Tensor:
    """Poisson likelihood with rate exp(output); the output gradient is prediction - target.

    Args:
        output: Logarithm of the predicted rate, [..., C].
        target: Counts, or any nonnegative numbers, [..., C].
    """
    return (capped_exp(output) - target * output).sum(-1)


def gaussian_nll(output: Tensor, target: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Gaussian likelihood whose mean and variance are both predicted.

    Args:
        output: Means, then logarithms of the variances, [..., 2C].
        eps: Smallest variance, in squared units of the target; positive.
    """
    mean, log_variance = output.chunk(2, -1)
    log_variance = log_variance.clamp(min=math.log(eps))
    return 0.5 * (log_variance + (mean - target).square() * (-log_variance).exp()).sum(-1)


def beta_nll(output: Tensor, target: Tensor, *, beta: float = 0.5, eps: float = 1e-6) -> Tensor:
    """`gaussian_nll` times a power of the variance; this factor passes no gradient.

    With the factor, a large predicted variance reduces the gradient of the mean less. The gradient
    is not the derivative of the value.

    Args:
        output: Means, then logarithms of the variances, [..., 2C].
        beta: Power, from 0 (gaussian_nll) to 1 (means have the gradient of mse).
        eps: Smallest variance, in squared units of the target; positive.
    """
    mean, log_variance = output.chunk(2, -1)
    log_variance = log_variance.clamp(min=math.log(eps))
    nll = 0.5 * (log_variance + (mean - target).square() * (-log_variance).exp())
    weight = (beta * log_variance.detach()).clamp(max=LARGEST_EXPONENT).exp()
    return (weight * nll).sum(-1)


def gaussian_crps(output: Tensor, target: Tensor, *, eps: float = 1e-6) -> Tensor:
    """The continuous ranked probability score of a Gaussian whose mean and variance are predicted.

    The score is in units of the target and becomes mae as the variance goes to 0.

    Args:
        output: Means, then logarithms of the variances, [..., 2C].
        eps: Smallest variance, in squared units of the target; positive.
    """
    mean, log_variance = output.chunk(2, -1)
    deviation = capped_exp(0.5 * log_variance.clamp(min=math.log(eps)))
    error = (mean - target) / deviation
    density = (-0.5 * error.square()).exp() / math.sqrt(2.0 * math.pi)
    score = error * torch.erf(error / math.sqrt(2.0)) + 2.0 * density - 1.0 / math.sqrt(math.pi)
    return (deviation * score).sum(-1)


def hl_gauss(
    output: Tensor, target: Tensor, *, low: float = -5.0, high: float = 5.0, sigma: float = 0.75
) -> Tensor:
    """Regression as classification: cross entropy of bins against a Gaussian around the target.

    The Gaussian is cut off at the ends of the bins, and its share of a bin is the bin's target.

    Args:
        output: Logits of the first bin of each target, then of the second, and so on, [..., nC].
        target: [..., C]; values beyond the bins are moved to the nearest end.
        low: Lower end of the first bin, in units of the target.
        high: Upper end of the last bin, in units of the target.
        sigma: Standard deviation of the Gaussian in widths of a bin, positive; the default is that
            of Farebrother et al. 2024.

    Raises:
        ValueError: `low` is not below `high`, or `sigma` is not positive.
    """
    if not low < high:
        raise ValueError(f"low is {low} and high {high}: use numbers of which low is the smaller")
    if not sigma > 0:
        raise ValueError(f"sigma is {sigma}: use a positive number, in widths of a bin")
    count = output.shape[-1] // target.shape[-1]
    edges = bin_edges(count, low=low, high=high, like=output)
    centre = target.clamp(low, high).unsqueeze(-1)  # [..., C, 1]
    below = torch.erf((edges - centre) * (count / (sigma * math.sqrt(2.0) * (high - low))))
    share = (below[..., 1:] - below[..., :-1]) / (below[..., -1:] - below[..., :1])
    return -(share * log_softmax(of_each_target(output, count))).flatten(-2).sum(-1)


def student_t(output: Tensor, target: Tensor, *, df: float = 4.0, scale: float = 1.0) -> Tensor:
    """Student's t likelihood of fixed scale; the influence redescends, slower for a larger `df`.

    Args:
        df: Degrees of freedom, positive; 1 is Cauchy noise, towards infinity Gaussian noise.
        scale: Scale of the noise, in units of the target; positive.
    """
    squared = ((output - target) / scale).square()
    return 0.5 * (df + 1.0) * (squared / df).log1p().sum(-1)


def msle(output: Tensor, target: Tensor) -> Tensor:
    """Squared error of log(1 + prediction); a softplus keeps the prediction positive.

    Args:
        output: [..., C]; the prediction is its softplus.
        target: Nonnegative numbers, [..., C].
    """
    return (softplus(output).log1p() - target.log1p()).square().sum(-1)


LIKELIHOOD = frozenset({"gradient_is_derivative", "minimised_at_target", "permutation_invariant"})
"""Claims of every negative log-likelihood of independent targets."""

row = partial(Loss, family="likelihood", task="regression")

ROWS = (
    row(
        fn=poisson_nll,
        inverse_link="exp",
        formula="exp(z) - yz",
        claims=LIKELIHOOD
        | {
            "gradient_is_error",
            "points_along_error",
            "linear_in_target",
            "elicits_mean",
            "convex",
            "smooth",
        },
        source="McCullagh and Nelder 1989, Generalized Linear Models",
        domain="nonnegative",
        oracle="torch, scikit-learn",
    ),
    row(
        fn=gaussian_nll,
        inverse_link="mean",
        formula="(log v + e²/v)/2, two outputs",
        claims=LIKELIHOOD | {"elicits_mean", "translation_invariant"},
        source="Nix and Weigend 1994; its pitfalls in Seitzer et al. 2022, ICLR",
        outputs_per_target=2,
        oracle="torch, scoringrules",
        distribution="gaussian",
    ),
    row(
        fn=beta_nll,
        inverse_link="mean",
        formula="[v^β] (log v + e²/v)/2, two outputs, [·] without gradient",
        claims=(LIKELIHOOD - {"gradient_is_derivative"})
        | {"elicits_mean", "translation_invariant"},
        source="Seitzer, Tavakoli, Antic and Martius 2022, ICLR",
        outputs_per_target=2,
        oracle="torch",
        distribution="gaussian",
    ),
    row(
        fn=gaussian_crps,
        inverse_link="mean",
        formula="σ (w (2Φ(w) - 1) + 2φ(w) - 1/√π), w = e/σ, two outputs",
        claims=LIKELIHOOD | {"smooth", "translation_invariant", "nonnegative"},
        source="Gneiting, Raftery, Westveld and Goldman 2005, Monthly Weather Review",
        outputs_per_target=2,
        oracle="scoringrules",
        distribution="gaussian",
    ),
    row(
        fn=hl_gauss,
        inverse_link="mean_of_bins",
        formula="-Σ q log p, p = softmax(z), q the Gaussian's shares of n = 51 bins",
        claims=LIKELIHOOD | {"convex", "smooth", "bounded_gradient", "nonnegative"},
        source="Imani and White 2018, ICML; Farebrother et al. 2024, ICML",
        outputs_per_target=51,
        oracle="torch",
        distribution="bins",
    ),
    row(
        fn=student_t,
        inverse_link="identity",
        formula="(df + 1)/2 log(1 + (e/scale)²/df)",
        claims=LIKELIHOOD
        | {
            "smooth",
            "bounded_gradient",
            "vanishing_when_wrong",
            "translation_invariant",
            "nonnegative",
        },
        source="Lange, Little and Taylor 1989, Journal of the American Statistical Association",
        oracle="torch, scipy, statsmodels, scoringrules",
        distribution="student_t",
    ),
    row(
        fn=msle,
        inverse_link="softplus",
        formula="(log(1 + f) - log(1 + y))²",
        claims=LIKELIHOOD | {"smooth", "bounded_gradient", "vanishing_when_wrong", "nonnegative"},
        source="The metric of several Kaggle competitions, there as its root (RMSLE)",
        domain="nonnegative",
        oracle="scikit-learn, keras",
    ),
)
