"""Powers and the hyperbolic cosine of the error, which is that of the prediction or the output.

A power p has the factor 1/p, so that the gradient with respect to the prediction is sign e for mae,
e for mse and e³ for quartic. Every function takes output and target, [..., C] each, and returns the
loss per example, [...], summed over outputs. If u is the unit of a regression target, the unit of
mse is u² and the unit of quartic is u⁴.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from lossbench.losses.links import LARGEST_EXPONENT
from lossbench.losses.softmax import exact_softmax
from lossbench.losses.spec import Loss


def mse(output: Tensor, target: Tensor) -> Tensor:
    """Half the squared error, so that the output gradient is exactly `output - target`.

    `torch.nn.MSELoss` is 2/C times this loss.
    """
    return 0.5 * (output - target).square().sum(-1)


def mae(output: Tensor, target: Tensor) -> Tensor:
    """Absolute error. The output gradient is the sign of the error."""
    return (output - target).abs().sum(-1)


def quartic(output: Tensor, target: Tensor) -> Tensor:
    """A quarter of the fourth power of the error. The output gradient is the cubed error."""
    return 0.25 * (output - target).square().square().sum(-1)


def lp(output: Tensor, target: Tensor, *, p: float = 1.5) -> Tensor:
    """The `p`-th power of the absolute error, divided by `p`.

    Args:
        p: Exponent, 1 or more; 1 gives mae, 2 gives mse, 4 gives quartic.
    """
    return (output - target).abs().pow(p).sum(-1) / p


def cosh(output: Tensor, target: Tensor) -> Tensor:
    """Hyperbolic cosine of the error, less 1: squared near the target, exponential far from it.

    Beyond an error of `links.LARGEST_EXPONENT` the loss continues along its tangent and stays
    finite.
    """
    error = output - target
    inside = error.clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT)
    # 2 sinh²(e/2) = cosh e - 1 without the cancellation near zero.
    return (2.0 * (0.5 * inside).sinh().square() + inside.sinh() * (error - inside)).sum(-1)


def quartic_probs(output: Tensor, target: Tensor) -> Tensor:
    """A quarter of the fourth power of the error of softmax probabilities."""
    return 0.25 * (exact_softmax(output) - target).square().square().sum(-1)


def rescaled_square(output: Tensor, target: Tensor, *, k: float = 15.0, M: float = 30.0) -> Tensor:
    """Squared error of raw outputs: the label's output is to reach `M` and has the weight `k`.

    Args:
        target: Distribution, [..., C]; if not a hard label, the loss is the expected loss.
        k: Factor on the label's term, positive.
        M: Value that the label's output is to reach. With k = M = 1 the loss is twice mse_logits.
    """
    of_label = target * k * (output - M).square()
    return (of_label + (1.0 - target) * output.square()).sum(-1)


OF_ERROR = frozenset(
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

row = partial(Loss, family="power", task="regression", inverse_link="identity")

ROWS = (
    row(
        fn=mse,
        formula="e²/2",
        claims=OF_ERROR
        | {"gradient_is_error", "points_along_error", "linear_in_target", "elicits_mean", "smooth"},
        source="Gauss 1809; Savage 1971, Journal of the American Statistical Association",
        oracle="torch, scikit-learn",
    ),
    row(
        fn=mae,
        formula="|e|",
        claims=OF_ERROR | {"bounded_gradient"},
        source="Laplace 1774; Koenker and Bassett 1978, Econometrica",
        oracle="torch, scikit-learn",
    ),
    row(
        fn=quartic,
        formula="e⁴/4",
        claims=OF_ERROR | {"smooth"},
        source="The essay's alternative; the L4 norm",
        oracle="torch",
    ),
    row(
        fn=lp,
        formula="|e|^p / p",
        claims=OF_ERROR | {"smooth"},
        source="Gneiting 2011, Journal of the American Statistical Association",
        oracle="torch",
    ),
    row(
        fn=cosh,
        formula="cosh e - 1",
        claims=OF_ERROR | {"smooth"},
        source="Varian 1975 and Zellner 1986 for the one-sided form (`linex`); both sides added "
        "here",
        oracle="scikit-learn",
    ),
    row(
        fn=quartic_probs,
        inverse_link="softmax",
        task="classification",
        formula="Σ(p - y)⁴/4",
        claims=frozenset(
            {
                "gradient_is_derivative",
                "minimised_at_target",
                "calibrated",
                "smooth",
                "bounded_gradient",
                "vanishing_when_wrong",
                "translation_invariant",
                "permutation_invariant",
                "nonnegative",
            }
        ),
        source="The essay's alternative, on probabilities. The 1/4 is this suite's convention for "
        "powers",
        oracle="torch",
    ),
    row(
        fn=rescaled_square,
        task="classification",
        formula="k(z_c - M)² + Σ z_j², j ≠ c",
        claims=frozenset(
            {
                "gradient_is_derivative",
                "linear_in_target",
                "calibrated",
                "convex",
                "smooth",
                "permutation_invariant",
                "nonnegative",
            }
        ),
        source="Hui and Belkin 2021, ICLR; a mean over classes there. Defaults are theirs for "
        "ImageNet",
        oracle="torch",
    ),
)
