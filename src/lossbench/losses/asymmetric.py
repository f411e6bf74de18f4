"""Losses that weigh errors above and below the target differently, such as quantile losses.

Every function takes output and target, [..., C] each, in units of the target, and returns the
loss per example, [...], summed over outputs.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lossbench.losses.distributions import quantile_levels
from lossbench.losses.links import capped_expm1
from lossbench.losses.spec import Loss


def pinball(output: Tensor, target: Tensor, *, tau: float = 0.8) -> Tensor:
    """The quantile loss: `tau` per unit below the target, 1 - `tau` per unit above the target.

    Args:
        tau: Level of the quantile that the loss elicits, between 0 and 1; 1/2 gives half of mae.
    """
    error = output - target
    return torch.maximum((1.0 - tau) * error, -tau * error).sum(-1)


def quantiles(output: Tensor, target: Tensor) -> Tensor:
    """Twice the mean of `pinball` over evenly spaced levels, with one output for each level.

    As the number of levels grows, the loss approaches the continuous ranked probability score of
    the prediction, in units of the target. The predicted quantiles may cross.

    Args:
        output: Medians, then quantiles of the other levels i/(n + 1), levels rising, [..., nC].
    """
    count = output.shape[-1] // target.shape[-1]
    levels = quantile_levels(count, like=output)[:, None]  # [n, 1]
    error = output.unflatten(-1, (count, -1)) - target.unsqueeze(-2)
    scores = torch.maximum((1.0 - levels) * error, -levels * error)
    return 2.0 / count * scores.flatten(-2).sum(-1)


def expectile(output: Tensor, target: Tensor, *, tau: float = 0.8) -> Tensor:
    """Squared error times `tau` if the prediction is too small, else times 1 - `tau`.

    Args:
        tau: Level of the expectile that the loss elicits, between 0 and 1; 1/2 gives mse.
    """
    error = output - target
    squared = error.square()
    return torch.where(error < 0, tau * squared, (1.0 - tau) * squared).sum(-1)


def linex(output: Tensor, target: Tensor, *, a: float = 1.0) -> Tensor:
    """Loss that grows exponentially if the prediction is too large, linearly if it is too small.

    Beyond an exponent of `links.LARGEST_EXPONENT` the loss continues along its tangent and stays
    finite.

    Args:
        a: Steepness, per unit of the target; a negative number swaps the two sides.
    """
    error = output - target
    return (capped_expm1(a * error) - a * error).sum(-1)


ASYMMETRIC = frozenset(
    {
        "gradient_is_derivative",
        "minimised_at_target",
        "convex",
        "translation_invariant",
        "permutation_invariant",
        "nonnegative",
    }
)
"""Claims of every convex function of the error that has its only minimum at zero."""

row = partial(Loss, family="asymmetric", task="regression", inverse_link="identity")

ROWS = (
    row(
        fn=pinball,
        formula="max((1 - τ)e, -τe)",
        claims=ASYMMETRIC | {"bounded_gradient"},
        source="Koenker and Bassett 1978, Econometrica",
        oracle="scikit-learn, scoringrules",
        quantile="tau",
    ),
    row(
        fn=quantiles,
        inverse_link="median",
        formula="2/n Σ_i max((1 - τ_i)e_i, -τ_i e_i), τ_i = i/(n + 1), n = 19 outputs",
        claims=ASYMMETRIC | {"bounded_gradient"},
        source="Koenker and Bassett 1978, Econometrica; many at once in Zou and Yuan 2008, Annals "
        "of Statistics",
        outputs_per_target=19,
        oracle="scikit-learn, scoringrules",
        distribution="quantiles",
    ),
    row(
        fn=expectile,
        formula="|τ - [e ≥ 0]| e²",
        claims=ASYMMETRIC | {"smooth"},
        source="Newey and Powell 1987, Econometrica",
        oracle="statsmodels",
    ),
    row(
        fn=linex,
        formula="exp(ae) - ae - 1",
        claims=ASYMMETRIC | {"smooth"},
        source="Varian 1975; Zellner 1986, Journal of the American Statistical Association",
        oracle="torch, scikit-learn",
    ),
)
