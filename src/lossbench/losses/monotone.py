"""M-estimator losses with a monotone, bounded influence, like absolute error far off.

Every function takes output and target, [..., C] each, in units of the target, and returns the
loss per example, [...], summed over outputs.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from lossbench.losses.links import softplus
from lossbench.losses.spec import Loss


def huber(output: Tensor, target: Tensor, *, delta: float = 1.0) -> Tensor:
    """Squared error near the target, absolute error beyond `delta`.

    Args:
        delta: Error at which the two branches meet, in units of the target; positive. In a
            run, the unit is the standard deviation of the training target.
    """
    error = output - target
    # The clipped error in place of torch.where, so that no branch has a square that overflows.
    clipped = error.clamp(-delta, delta)
    return (clipped * (error - 0.5 * clipped)).sum(-1)


def smooth_l1(output: Tensor, target: Tensor, *, beta: float = 1.0) -> Tensor:
    """Huber's loss divided by `beta`, so that the slope far from the target is 1.

    Args:
        beta: Error at which the two branches meet, in units of the target; positive.
    """
    return huber(output, target, delta=beta) / beta


def pseudo_huber(output: Tensor, target: Tensor, *, delta: float = 1.0) -> Tensor:
    """Pseudo-Huber loss, a hyperbola: a smooth form of Huber's loss.

    Charbonnier's √(e² + ε²) is this loss at `delta` = ε, divided by ε, plus ε.

    Args:
        delta: Error at which the slope is 1/√2 of its limit, in units of the target; positive.
    """
    squared = ((output - target) / delta).square()
    # √(1 + x) - 1 without the cancellation near zero.
    return delta**2 * (squared / ((1.0 + squared).sqrt() + 1.0)).sum(-1)


def log_cosh(output: Tensor, target: Tensor) -> Tensor:
    """Logarithm of the hyperbolic cosine of the error; the output gradient is tanh of the error."""
    error = output - target
    # cosh overflows at 89 in float32: log cosh e = e + log(1 + exp(-2e)) - log 2, smooth at zero.
    return (error + softplus(-2.0 * error) - math.log(2.0)).sum(-1)


def eps_insensitive(output: Tensor, target: Tensor, *, epsilon: float = 0.1) -> Tensor:
    """Absolute error beyond a tube around the target; zero for predictions inside the tube.

    Args:
        epsilon: Half the width of the tube, in units of the target; 0 gives mae.
    """
    return ((output - target).abs() - epsilon).clamp(min=0.0).sum(-1)


def barron(output: Tensor, target: Tensor, *, alpha: float = 1.0, c: float = 1.0) -> Tensor:
    """Barron's general robust loss: with `c` = 1, `alpha` 2 gives mse, 1 pseudo_huber.

    With `c` = 1, `alpha` 0 gives cauchy with c = √2, and -2 gives geman_mcclure. Below `alpha` 1
    the influence redescends.

    Args:
        alpha: Shape, any number up to 2; a smaller `alpha` gives outliers less influence. The
            default is the start value of the paper's adaptive form.
        c: Scale of the error, in units of the target; positive.
    """
    squared = ((output - target) / c).square()
    if alpha == 2.0:
        return 0.5 * squared.sum(-1)
    width = abs(alpha - 2.0)
    if alpha == 0.0:
        return (squared / width).log1p().sum(-1)
    # ((x + 1)^(a/2) - 1) / a without the cancellation near a = 0.
    return width / alpha * torch.expm1(0.5 * alpha * (squared / width).log1p()).sum(-1)


MONOTONE = frozenset(
    {
        "gradient_is_derivative",
        "convex",
        "bounded_gradient",
        "translation_invariant",
        "permutation_invariant",
        "nonnegative",
    }
)
"""Claims of every loss that has a monotone, bounded influence."""

ROUNDED = MONOTONE | {"minimised_at_target", "smooth"}
"""Claims of the monotone losses that are smooth at the minimum."""

row = partial(Loss, family="monotone", task="regression", inverse_link="identity")

ROWS = (
    row(
        fn=huber,
        formula="e²/2 if |e| ≤ δ else δ(|e| - δ/2)",
        claims=ROUNDED,
        source="Huber 1964, Annals of Mathematical Statistics",
        oracle="torch, scipy, statsmodels",
    ),
    row(
        fn=smooth_l1,
        formula="e²/(2β) if |e| ≤ β else |e| - β/2",
        claims=ROUNDED,
        source="Girshick 2015, ICCV (Fast R-CNN)",
        oracle="torch",
    ),
    row(
        fn=pseudo_huber,
        formula="δ²(√(1 + (e/δ)²) - 1)",
        claims=ROUNDED,
        source="Charbonnier et al. 1994, ICIP; Barron 2019, CVPR",
        oracle="scipy, kornia",
    ),
    row(
        fn=log_cosh,
        formula="log cosh e",
        claims=ROUNDED,
        source="Green 1990, IEEE Transactions on Medical Imaging",
        oracle="keras",
    ),
    row(
        fn=eps_insensitive,
        formula="max(|e| - ε, 0)",
        claims=MONOTONE,
        source="Vapnik 1995, The Nature of Statistical Learning Theory",
        oracle="torch, scikit-learn",
    ),
    row(
        fn=barron,
        formula="|α - 2|/α (((e/c)²/|α - 2| + 1)^(α/2) - 1)",
        claims=ROUNDED,
        source="Barron 2019, CVPR",
        oracle="scipy, kornia",
    ),
)
