"""Cross entropy with its target, its output or its confidence held back.

Every function takes the output and a target distribution, [..., C] each, and returns the loss
per example, [...].
"""

from __future__ import annotations

from torch import Tensor

from lossbench.losses.links import direction
from lossbench.losses.proper import cross_entropy
from lossbench.losses.softmax import log_softmax
from lossbench.losses.spec import Loss


def label_smoothing(output: Tensor, target: Tensor, *, epsilon: float = 0.1) -> Tensor:
    """Cross entropy against a target of which a share is spread over all classes.

    Args:
        output: [..., C].
        target: Distribution, [..., C].
        epsilon: Share that is spread, between 0 and 1; 0 is cross_entropy.
    """
    return cross_entropy(output, (1.0 - epsilon) * target + epsilon / output.shape[-1])


def confidence_penalty(output: Tensor, target: Tensor, *, beta: float = 0.1) -> Tensor:
    """Cross entropy less `beta` times the entropy of the prediction.

    Args:
        output: [..., C].
        target: Distribution, [..., C].
        beta: Weight of the entropy, 0 or more; 0 is cross_entropy.
    """
    log_p = log_softmax(output)
    return cross_entropy(output, target) + beta * (log_p.exp() * log_p).sum(-1)


def logit_penalty(output: Tensor, target: Tensor, *, beta: float = 0.01) -> Tensor:
    """Cross entropy plus half of `beta` times the squared norm of the output.

    Args:
        output: [..., C].
        target: Distribution, [..., C].
        beta: Weight of the norm, 0 or more; 0 is cross_entropy. The paper tunes it, this is ours.
    """
    return cross_entropy(output, target) + 0.5 * beta * output.square().sum(-1)


def logit_norm(output: Tensor, target: Tensor, *, tau: float = 0.04) -> Tensor:
    """Cross entropy of the output's direction: its length neither counts nor gets a gradient.

    Args:
        output: [..., C].
        target: Distribution, [..., C].
        tau: Temperature the direction is divided by, positive.
    """
    return cross_entropy(direction(output) / tau, target)


def cosine_softmax(output: Tensor, target: Tensor, *, scale: float = 20.0) -> Tensor:
    """Cross entropy of `scale` times the cosine between the output and each class's axis.

    As a head it normalises features and class weights; of the output alone there is left what
    logit_norm has at tau = 1/`scale`.

    Args:
        output: [..., C].
        target: Distribution, [..., C].
        scale: Inverse temperature, positive.
    """
    return cross_entropy(scale * direction(output), target)


REGULARIZED = frozenset(
    {"gradient_is_derivative", "linear_in_target", "calibrated", "permutation_invariant"}
)
"""Claims that cross entropy makes and every one of these keeps."""

NORMALIZED = REGULARIZED | {
    "minimised_at_target",
    "elicits_mean",
    "strictly_proper",
    "vanishing_when_wrong",
    "nonnegative",
}
"""Claims of cross entropy of the output's direction."""

ROWS = (
    Loss(
        fn=label_smoothing,
        inverse_link="softmax",
        family="regularized",
        task="classification",
        formula="-Σ ((1 - ε)y + ε/C) log p",
        claims=REGULARIZED
        | {"convex", "smooth", "bounded_gradient", "translation_invariant", "nonnegative"},
        source="Szegedy et al. 2016, CVPR; Müller, Kornblith and Hinton 2019, NeurIPS",
        oracle="torch, timm",
    ),
    Loss(
        fn=confidence_penalty,
        inverse_link="softmax",
        family="regularized",
        task="classification",
        formula="-Σ y log p + β Σ p log p",
        claims=REGULARIZED | {"smooth", "bounded_gradient", "translation_invariant"},
        source="Pereyra et al. 2017, ICLR workshop",
        oracle="torch",
    ),
    Loss(
        fn=logit_penalty,
        inverse_link="softmax",
        family="regularized",
        task="classification",
        formula="-Σ y log p + β/2 ‖z‖²",
        claims=REGULARIZED | {"convex", "smooth", "nonnegative"},
        source="Kornblith et al. 2021, NeurIPS",
        oracle="torch",
    ),
    Loss(
        fn=logit_norm,
        inverse_link="normalized_softmax",
        family="regularized",
        task="classification",
        formula="-Σ y log softmax(z / (τ‖z‖))",
        claims=NORMALIZED,
        source="Wei et al. 2022, ICML",
        oracle="torch",
    ),
    Loss(
        fn=cosine_softmax,
        inverse_link="cosine_softmax",
        family="regularized",
        task="classification",
        formula="-Σ y log softmax(scale z / ‖z‖)",
        claims=NORMALIZED,
        source="Kornblith et al. 2021, NeurIPS",
        oracle="torch",
    ),
)
