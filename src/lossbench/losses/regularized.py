"""Cross entropy with a regularised target, output or confidence.

Every function takes the output and a target distribution, [..., C] each, and returns the loss
per example, [...].
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lossbench.losses.links import direction, signed_log1p, softcapped
from lossbench.losses.proper import cross_entropy
from lossbench.losses.softmax import log_softmax
from lossbench.losses.spec import Loss


def label_smoothing(output: Tensor, target: Tensor, *, epsilon: float = 0.1) -> Tensor:
    """Cross entropy against a smoothed target, of which a share is spread over all classes.

    Args:
        epsilon: Share that is spread, between 0 and 1; 0 is cross_entropy.
    """
    return cross_entropy(output, (1.0 - epsilon) * target + epsilon / output.shape[-1])


def confidence_penalty(output: Tensor, target: Tensor, *, beta: float = 0.1) -> Tensor:
    """Cross entropy less `beta` times the entropy of the prediction.

    Args:
        beta: Weight of the entropy, 0 or more; 0 is cross_entropy.
    """
    log_p = log_softmax(output)
    return cross_entropy(output, target) + beta * (log_p.exp() * log_p).sum(-1)


def logit_penalty(output: Tensor, target: Tensor, *, beta: float = 0.01) -> Tensor:
    """Cross entropy plus half of `beta` times the squared norm of the output.

    Args:
        beta: Weight of the norm, 0 or more; 0 is cross_entropy. The paper tunes
            `beta`; this default is ours.
    """
    return cross_entropy(output, target) + 0.5 * beta * output.square().sum(-1)


def logit_norm(output: Tensor, target: Tensor, *, tau: float = 0.04) -> Tensor:
    """Cross entropy of the output's direction over `tau`; the output's length has no effect.

    Args:
        tau: Temperature that divides the direction, positive.
    """
    return cross_entropy(direction(output) / tau, target)


def cosine_softmax(output: Tensor, target: Tensor, *, scale: float = 20.0) -> Tensor:
    """Cross entropy of `scale` times the cosine between the output and each class's axis.

    The paper's output layer also normalises features and class weights. As a function of the
    output alone, the loss is logit_norm at tau = 1/`scale`.

    Args:
        scale: Inverse temperature, positive.
    """
    return cross_entropy(scale * direction(output), target)


def z_loss(output: Tensor, target: Tensor, *, c: float = 1e-4) -> Tensor:
    """Cross entropy plus `c` times the square of the softmax's log normaliser, log Σ exp z.

    The added term is least if log Σ exp z is 0, so it prevents a common drift of all outputs, to
    which cross entropy is blind.

    Args:
        c: Weight of the square, 0 or more; 0 is cross_entropy. The default is that of PaLM.
    """
    return cross_entropy(output, target) + c * output.logsumexp(-1).square()


def softcap(output: Tensor, target: Tensor, *, cap: float = 30.0) -> Tensor:
    """Cross entropy of soft-capped outputs, cap tanh(z / cap), which stay between -cap and cap.

    Args:
        cap: Bound of the outputs, positive; towards infinity the loss becomes cross_entropy. The
            default is that of Gemma 2.
    """
    return cross_entropy(softcapped(output, cap=cap), target)


def stablemax(output: Tensor, target: Tensor) -> Tensor:
    """Cross entropy behind the StableMax, a softmax with linear in place of exponential growth."""
    return cross_entropy(signed_log1p(output), target)


def distillation(output: Tensor, target: Tensor, *, temperature: float = 2.0) -> Tensor:
    """Divergence KL(target ‖ softmax), both at a temperature, times the squared temperature.

    Args:
        target: Distribution, [..., C], of a teacher at temperature 1. The loss raises the target
            to the power 1/temperature and normalises the result.
        temperature: Temperature, positive; 1 gives forward_kl. A higher temperature gives small
            probabilities more weight.
    """
    softened = target.pow(1.0 / temperature)
    softened = softened / softened.sum(-1, keepdim=True)
    log_p = log_softmax(output / temperature)
    return temperature**2 * (torch.xlogy(softened, softened) - softened * log_p).sum(-1)


REGULARIZED = frozenset(
    {"gradient_is_derivative", "linear_in_target", "calibrated", "permutation_invariant"}
)
"""Claims of cross entropy that every loss of this family but distillation keeps."""

NORMALIZED = REGULARIZED | {
    "minimised_at_target",
    "elicits_mean",
    "strictly_proper",
    "vanishing_when_wrong",
    "nonnegative",
}
"""Claims of cross entropy of the output's direction."""

row = partial(Loss, family="regularized", task="classification", inverse_link="softmax")

ROWS = (
    row(
        fn=label_smoothing,
        formula="-Σ ((1 - ε)y + ε/C) log p",
        claims=REGULARIZED
        | {"convex", "smooth", "bounded_gradient", "translation_invariant", "nonnegative"},
        source="Szegedy et al. 2016, CVPR; Müller, Kornblith and Hinton 2019, NeurIPS",
        oracle="torch, timm",
    ),
    row(
        fn=confidence_penalty,
        formula="-Σ y log p + β Σ p log p",
        claims=REGULARIZED | {"smooth", "bounded_gradient", "translation_invariant"},
        source="Pereyra et al. 2017, ICLR workshop",
        oracle="torch",
    ),
    row(
        fn=logit_penalty,
        formula="-Σ y log p + β/2 ‖z‖²",
        claims=REGULARIZED | {"convex", "smooth", "nonnegative"},
        source="Kornblith et al. 2021, NeurIPS",
        oracle="torch",
    ),
    row(
        fn=logit_norm,
        inverse_link="normalized_softmax",
        formula="-Σ y log softmax(z / (τ‖z‖))",
        claims=NORMALIZED,
        source="Wei et al. 2022, ICML",
        oracle="torch",
    ),
    row(
        fn=cosine_softmax,
        inverse_link="cosine_softmax",
        formula="-Σ y log softmax(scale z / ‖z‖)",
        claims=NORMALIZED,
        source="Kornblith et al. 2021, NeurIPS",
        oracle="torch",
    ),
    row(
        fn=z_loss,
        formula="-Σ y log p + c (log Σ exp z)²",
        claims=REGULARIZED
        | {"minimised_at_target", "elicits_mean", "strictly_proper", "convex", "smooth"}
        | {"nonnegative"},
        source="Chowdhery et al. 2023, JMLR (PaLM)",
        oracle="torch",
    ),
    row(
        fn=softcap,
        inverse_link="softcapped_softmax",
        formula="-Σ y log softmax(cap tanh(z / cap))",
        claims=REGULARIZED
        | {"minimised_at_target", "elicits_mean", "strictly_proper", "smooth"}
        | {"bounded_gradient", "vanishing_when_wrong", "nonnegative"},
        source="Gemma Team 2024 (Gemma 2); Bello et al. 2017, ICLR workshop",
        oracle="torch",
    ),
    row(
        fn=stablemax,
        inverse_link="stablemax",
        formula="-Σ y log(s(z) / Σ s), s(z) = 1 + z if z ≥ 0 else 1/(1 - z)",
        claims=REGULARIZED
        | {"minimised_at_target", "elicits_mean", "strictly_proper", "smooth"}
        | {"bounded_gradient", "vanishing_when_wrong", "nonnegative"},
        source="Prieto, Barsbey, Mediano and Birdal 2025, ICLR",
        oracle="torch",
    ),
    row(
        fn=distillation,
        formula="T² Σ q log(q / softmax(z/T)), q ∝ y^(1/T)",
        claims=frozenset(
            {"gradient_is_derivative", "minimised_at_target", "calibrated", "convex", "smooth"}
        )
        | {"bounded_gradient", "translation_invariant", "permutation_invariant", "nonnegative"},
        source="Hinton, Vinyals and Dean 2015",
        oracle="torch",
    ),
)
