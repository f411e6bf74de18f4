"""M-estimator losses with a monotone, bounded influence: squared near the target, absolute far."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional

from lossbench.losses.spec import Loss


def huber(output: Tensor, target: Tensor, *, delta: float = 1.0) -> Tensor:
    """Squared error near the target, absolute error beyond `delta`.

    Args:
        output: Raw model output, [..., C], in units of the target.
        target: Same shape as `output`.
        delta: Error at which the two branches meet, in units of the target; positive.

    Returns:
        Loss per example, [...], in squared units of the target.

    Source:
        Huber 1964, Annals of Mathematical Statistics.
    """
    error = output - target
    # The clipped error keeps the branch that torch.where drops finite: its square cannot overflow.
    clipped = error.clamp(-delta, delta)
    return (clipped * (error - 0.5 * clipped)).sum(-1)


def log_cosh(output: Tensor, target: Tensor) -> Tensor:
    """Logarithm of the hyperbolic cosine of the error; its output gradient is tanh of the error.

    Args:
        output: Raw model output, [..., C], in units of the target.
        target: Same shape as `output`.

    Returns:
        Loss per example, [...]; the unit of the target is taken as 1.

    Source:
        Green 1990, IEEE Transactions on Medical Imaging.
    """
    error = output - target
    # cosh overflows at 89 in float32: log cosh e = e + log(1 + exp(-2e)) - log 2, smooth at zero.
    # softplus is the identity beyond its threshold: 20, its default, is too early for float64.
    return (error + functional.softplus(-2.0 * error, threshold=50.0) - math.log(2.0)).sum(-1)


ROWS = (
    Loss(
        fn=huber,
        inverse_link="identity",
        family="monotone",
        task="regression",
        formula="e²/2 if |e| ≤ δ else δ(|e| - δ/2)",
        claims=frozenset({"minimised_at_target", "convex"}),
        source="Huber 1964",
    ),
    Loss(
        fn=log_cosh,
        inverse_link="identity",
        family="monotone",
        task="regression",
        formula="log cosh e",
        claims=frozenset({"minimised_at_target", "convex"}),
        source="Green 1990",
    ),
)
