"""Losses made for noisy labels."""

from __future__ import annotations

from torch import Tensor

from lossbench.losses.spec import Loss


def mae_probs(output: Tensor, target: Tensor) -> Tensor:
    """Absolute error of softmax probabilities; on a hard label c it is 2(1 - p_c).

    Args:
        output: Raw model output, [..., C].
        target: Probabilities, same shape as `output`.

    Returns:
        Loss per example, [...], between 0 and 2, without unit.

    Source:
        Ghosh, Kumar and Sastry 2017, AAAI.
    """
    return (output.softmax(-1) - target).abs().sum(-1)


ROWS = (
    Loss(
        fn=mae_probs,
        inverse_link="softmax",
        family="robust",
        task="classification",
        formula="Σ|p - y|",
        claims=frozenset({"minimised_at_target"}),
        source="Ghosh, Kumar and Sastry 2017",
    ),
)
