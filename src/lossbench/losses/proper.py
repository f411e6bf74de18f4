"""Strictly proper scoring rules: losses that learn the true probabilities from sampled labels.

The prediction is a softmax; mse_sigmoid alone has one sigmoid for each class.

Every function takes the output and a target distribution, [..., C] each, and returns the loss
per example, [...].
"""

from __future__ import annotations

from functools import partial

from torch import Tensor
from torch.nn import functional

from lossbench.losses.softmax import exact_log_softmax, exact_softmax, log_softmax, softmax
from lossbench.losses.spec import Loss


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood of the softmax, in nats; the output gradient is softmax - target."""
    return -(target * log_softmax(output)).sum(-1)


def brier(output: Tensor, target: Tensor) -> Tensor:
    """Squared error of softmax probabilities, summed over classes, between 0 and 2."""
    return (exact_softmax(output) - target).square().sum(-1)


def mse_sigmoid(output: Tensor, target: Tensor) -> Tensor:
    """Half the squared error of one sigmoid for each class, summed over classes.

    This is the squared error behind a sigmoid, as brier is behind a softmax and mse_logits behind
    the identity. On labels, the loss is half of savage at half the output.
    """
    # Not sigmoid: torch computes the derivative as s(1 - s), which is 0 if s rounds to 1.
    return 0.5 * (functional.logsigmoid(output).exp() - target).square().sum(-1)


def spherical(output: Tensor, target: Tensor) -> Tensor:
    """One minus the cosine of the angle between softmax and label, between 0 and 1."""
    p = softmax(output)
    return 1.0 - (target * p).sum(-1) / p.square().sum(-1).sqrt()


def tsallis(output: Tensor, target: Tensor, *, q: float = 1.5) -> Tensor:
    """The power score, which is the proper score of the Tsallis entropy; `q` = 2 gives brier.

    Args:
        q: Index of the entropy, above 1; towards 1 the loss becomes cross_entropy.
    """
    log_p = exact_log_softmax(output)
    # Not expm1: torch computes the derivative as 1 + expm1, which is 0 if expm1 rounds to -1.
    of_label = -(target * (q * (((q - 1.0) * log_p).exp() - 1.0))).sum(-1) / (q - 1.0)
    return of_label + (q * log_p).exp().sum(-1) - 1.0


def rps(output: Tensor, target: Tensor) -> Tensor:
    """The ranked probability score for ordered classes: squared error of the cumulative softmax.

    Probability costs more on a class two places from the label than on a class one place away.
    """
    error = exact_softmax(output) - target
    return error.cumsum(-1)[..., :-1].square().sum(-1)


PROPER = frozenset(
    {
        "gradient_is_derivative",
        "minimised_at_target",
        "linear_in_target",
        "elicits_mean",
        "strictly_proper",
        "calibrated",
        "smooth",
        "bounded_gradient",
        "translation_invariant",
        "permutation_invariant",
        "nonnegative",
    }
)
"""Claims of every smooth, strictly proper score behind a softmax."""

row = partial(Loss, family="proper", task="classification", inverse_link="softmax")

ROWS = (
    row(
        fn=cross_entropy,
        formula="-Σ y log p",
        claims=PROPER | {"gradient_is_error", "points_along_error", "local_weight", "convex"},
        source="Good 1952, Journal of the Royal Statistical Society; Bridle 1990",
        weight="1",
        oracle="torch, scikit-learn, timm",
    ),
    row(
        fn=brier,
        formula="Σ(p - y)²",
        claims=PROPER | {"vanishing_when_wrong"},
        source="Brier 1950, Monthly Weather Review",
        oracle="scikit-learn, scoringrules",
    ),
    row(
        fn=mse_sigmoid,
        inverse_link="sigmoid",
        formula="Σ(p - y)²/2",
        claims=(PROPER - {"translation_invariant"}) | {"vanishing_when_wrong"},
        source="Rumelhart, Hinton and Williams 1986, Nature (the error of the original back- "
        "propagation)",
        oracle="torch, scoringrules",
    ),
    row(
        fn=spherical,
        formula="1 - Σ y p / ‖p‖",
        claims=PROPER | {"vanishing_when_wrong"},
        source="Roby 1965; Good 1971; Gneiting and Raftery 2007, JASA",
        oracle="torch",
    ),
    row(
        fn=tsallis,
        formula="Σ p^q - 1 - q/(q - 1) Σ y (p^(q-1) - 1)",
        claims=PROPER | {"vanishing_when_wrong"},
        source="Gneiting and Raftery 2007, JASA (power family); Tsallis 1988",
        oracle="pytorch-optimizer",
    ),
    row(
        fn=rps,
        formula="Σ_k (Σ_{j≤k} p_j - y_j)²",
        claims=(PROPER - {"permutation_invariant"}) | {"vanishing_when_wrong"},
        source="Epstein 1969, Journal of Applied Meteorology",
        oracle="scoringrules",
    ),
)
