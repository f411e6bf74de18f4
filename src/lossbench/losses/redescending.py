"""M-estimator losses whose influence falls at large errors: far targets are taken for outliers.

Every function takes output and target, [..., C] each, in units of the target, and returns the
loss per example, [...], summed over outputs.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lossbench.losses.spec import Loss


def cauchy(output: Tensor, target: Tensor, *, c: float = 1.0) -> Tensor:
    """Logarithm of 1 plus the squared error, as for Cauchy noise. Also called Lorentzian.

    Args:
        c: Error at which the influence is largest, in units of the target; positive.
    """
    return 0.5 * c**2 * ((output - target) / c).square().log1p().sum(-1)


def geman_mcclure(output: Tensor, target: Tensor, *, c: float = 1.0) -> Tensor:
    """Squared error that saturates at 2 per output.

    Args:
        c: Scale of the error, in units of the target; positive.
    """
    squared = ((output - target) / c).square()
    return (2.0 * squared / (squared + 4.0)).sum(-1)


def welsch(output: Tensor, target: Tensor, *, c: float = 1.0) -> Tensor:
    """One minus a Gaussian of the error; the mean of the Gaussian is known as the correntropy.

    Args:
        c: Error at which the influence is largest, in units of the target; positive.
    """
    half = 0.5 * ((output - target) / c).square()
    # At large errors not expm1: torch's derivative, 1 + expm1, is 0 if expm1 rounds to -1.
    return torch.where(half < 1.0, -(-half).expm1(), 1.0 - (-half).exp()).sum(-1)


def tukey(output: Tensor, target: Tensor, *, c: float = 4.685) -> Tensor:
    """Tukey's biweight: a target with an error beyond `c` has no influence.

    Args:
        c: Error beyond which the loss is constant, in units of the target; positive. The default
            makes the loss 95 % as efficient as the mean under Gaussian noise of unit variance.
    """
    squared = ((output - target) / c).square().clamp(max=1.0)
    # 1 - (1 - x)³ multiplied out: no cancellation near zero.
    return c**2 / 6.0 * (squared * (3.0 - 3.0 * squared + squared.square())).sum(-1)


REDESCENDING = frozenset(
    {
        "gradient_is_derivative",
        "minimised_at_target",
        "smooth",
        "bounded_gradient",
        "vanishing_when_wrong",
        "translation_invariant",
        "permutation_invariant",
        "nonnegative",
    }
)
"""Claims of every loss that has a smooth influence falling to zero."""

row = partial(Loss, family="redescending", task="regression", inverse_link="identity")

ROWS = (
    row(
        fn=cauchy,
        formula="c²/2 log(1 + (e/c)²)",
        claims=REDESCENDING,
        source="Black and Anandan 1996, Computer Vision and Image Understanding",
        oracle="scipy, kornia",
    ),
    row(
        fn=geman_mcclure,
        formula="2(e/c)² / ((e/c)² + 4)",
        claims=REDESCENDING,
        source="Geman and McClure 1985; scaled as in Barron 2019, CVPR",
        oracle="kornia",
    ),
    row(
        fn=welsch,
        formula="1 - exp(-(e/c)²/2)",
        claims=REDESCENDING,
        source="Dennis and Welsch 1978; Liu, Pokharel and Principe 2007, IEEE Trans. Signal "
        "Processing",
        oracle="kornia",
    ),
    row(
        fn=tukey,
        formula="c²/6 (1 - (1 - (e/c)²)³) if |e| ≤ c else c²/6",
        claims=REDESCENDING,
        source="Beaton and Tukey 1974, Technometrics",
        oracle="statsmodels",
    ),
)
