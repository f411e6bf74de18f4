"""Strictly proper scoring rules behind the softmax."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from lossbench.losses.spec import Loss


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood of the softmax. Its output gradient is `softmax(output) - target`.

    Args:
        output: Raw model output (logits), [..., C].
        target: Probabilities, same shape as `output`.

    Returns:
        Loss per example, [...], in nats.

    Source:
        Good 1952, Journal of the Royal Statistical Society; Bridle 1990.
    """
    return -(target * functional.log_softmax(output, dim=-1)).sum(-1)


def brier(output: Tensor, target: Tensor) -> Tensor:
    """Squared error of softmax probabilities, summed over classes.

    Args:
        output: Raw model output, [..., C].
        target: Probabilities, same shape as `output`.

    Returns:
        Loss per example, [...], between 0 and 2, without unit.

    Source:
        Brier 1950, Monthly Weather Review.
    """
    return (output.softmax(-1) - target).square().sum(-1)


ROWS = (
    Loss(
        fn=cross_entropy,
        inverse_link="softmax",
        family="proper",
        task="classification",
        formula="-Σ y log p",
        claims=frozenset(
            {
                "gradient_is_error",
                "minimised_at_target",
                "linear_in_target",
                "elicits_mean",
                "strictly_proper",
                "convex",
            }
        ),
        source="Good 1952; Bridle 1990",
    ),
    Loss(
        fn=brier,
        inverse_link="softmax",
        family="proper",
        task="classification",
        formula="Σ(p - y)²",
        claims=frozenset(
            {"minimised_at_target", "linear_in_target", "elicits_mean", "strictly_proper"}
        ),
        source="Brier 1950",
    ),
)
