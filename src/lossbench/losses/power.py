"""Power losses |e|^p / p: the essay's squared error and the two alternatives it names.

The 1/p makes the gradient with respect to the prediction e, e^3 and sign e.
"""

from __future__ import annotations

from torch import Tensor

from lossbench.losses.spec import Loss


def mse(output: Tensor, target: Tensor) -> Tensor:
    """Half the squared error, so that its output gradient is exactly `output - target`.

    Args:
        output: Raw model output, [..., C], in units of the target.
        target: Same shape as `output`.

    Returns:
        Loss per example, [...], in squared units of the target. `torch.nn.MSELoss` is 2/C of it.

    Source:
        Gauss 1809; Savage 1971, Journal of the American Statistical Association.
    """
    return 0.5 * (output - target).square().sum(-1)


def mae(output: Tensor, target: Tensor) -> Tensor:
    """Absolute error. Its output gradient is the sign of the error, whatever its size.

    Args:
        output: Raw model output, [..., C], in units of the target.
        target: Same shape as `output`.

    Returns:
        Loss per example, [...], in units of the target.

    Source:
        Laplace 1774; Koenker and Bassett 1978, Econometrica.
    """
    return (output - target).abs().sum(-1)


def quartic(output: Tensor, target: Tensor) -> Tensor:
    """A quarter of the fourth power of the error. Its output gradient is the cubed error.

    Args:
        output: Raw model output, [..., C], in units of the target.
        target: Same shape as `output`.

    Returns:
        Loss per example, [...], in fourth powers of the target's unit.

    Source:
        The essay's alternative; the L4 norm.
    """
    return 0.25 * (output - target).square().square().sum(-1)


def quartic_probs(output: Tensor, target: Tensor) -> Tensor:
    """A quarter of the fourth power of the error of softmax probabilities.

    Args:
        output: Raw model output, [..., C].
        target: Probabilities, same shape as `output`.

    Returns:
        Loss per example, [...], without unit.

    Source:
        The essay's alternative, on probabilities. The 1/4 is this suite's convention for powers.
    """
    return 0.25 * (output.softmax(-1) - target).square().square().sum(-1)


ROWS = (
    Loss(
        fn=mse,
        inverse_link="identity",
        family="power",
        task="regression",
        formula="e²/2",
        claims=frozenset(
            {
                "gradient_is_error",
                "minimised_at_target",
                "linear_in_target",
                "elicits_mean",
                "convex",
            }
        ),
        source="Gauss 1809; Savage 1971",
    ),
    Loss(
        fn=mae,
        inverse_link="identity",
        family="power",
        task="regression",
        formula="|e|",
        claims=frozenset({"minimised_at_target", "convex"}),
        source="Laplace 1774; Koenker and Bassett 1978",
    ),
    Loss(
        fn=quartic,
        inverse_link="identity",
        family="power",
        task="regression",
        formula="e⁴/4",
        claims=frozenset({"minimised_at_target", "convex"}),
        source="the essay's alternative",
    ),
    Loss(
        fn=quartic_probs,
        inverse_link="softmax",
        family="power",
        task="classification",
        formula="Σ(p - y)⁴/4",
        claims=frozenset({"minimised_at_target"}),
        source="the essay's alternative, on probabilities",
    ),
)
