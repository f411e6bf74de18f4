"""Matching (Fenchel-Young) losses: the output gradient is inverse_link(output) - target."""

from __future__ import annotations

from torch import Tensor

from lossbench.losses.spec import Loss


def mse_logits(output: Tensor, target: Tensor) -> Tensor:
    """Half the squared error of the raw outputs, no softmax: the prediction is the output itself.

    Args:
        output: Raw model output, [..., C].
        target: Probabilities, same shape as `output`.

    Returns:
        Loss per example, [...], without unit.

    Source:
        Hui and Belkin 2021, ICLR (there without the half and with rescaling).
    """
    return 0.5 * (output - target).square().sum(-1)


ROWS = (
    Loss(
        fn=mse_logits,
        inverse_link="identity",
        family="matching",
        task="classification",
        formula="Σ(z - y)²/2",
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
        source="Hui and Belkin 2021",
    ),
)
