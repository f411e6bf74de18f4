"""Divergences between the target distribution and the softmax.

All but forward_kl are not linear in the target, so training on hard labels may give another result
than training on their distribution. Every function takes the output and a target distribution,
[..., C] each, and returns the divergence per example, [...].
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from lossbench.losses.links import capped_exp
from lossbench.losses.robust import rce
from lossbench.losses.softmax import exact_log_softmax, exact_softmax, log_softmax
from lossbench.losses.spec import Loss


def js(output: Tensor, target: Tensor) -> Tensor:
    """Jensen-Shannon divergence, in nats, between 0 and log 2."""
    p = exact_softmax(output)
    # If p underflows and the target is 0, both terms of that class are 0 in spite of the clamp.
    log_p, log_sum = (x.clamp(min=torch.finfo(p.dtype).tiny).log() for x in (p, p + target))
    # Σ y log(y/m) and Σ p log(p/m), each less log 2: both terms of a wrong class are exactly 0.
    of_target = torch.xlogy(target, target) - target * log_sum
    return math.log(2.0) + 0.5 * (of_target + p * (log_p - log_sum)).sum(-1)


def jsd(output: Tensor, target: Tensor, *, beta: float = 0.1) -> Tensor:
    """Generalised Jensen-Shannon divergence: β KL(target ‖ m) + (1 - β) KL(p ‖ m), m their mean.

    Args:
        beta: Weight β of the target in both means, between 0 and 1; 1/2 gives js. As `beta` goes to
            0, the loss divided by `beta` goes to forward_kl.

    Raises:
        ValueError: `beta` is not between 0 and 1.
    """
    _refuse_no_mixture("beta", beta)
    of_target = skew_kl(output, target, alpha=beta)
    return beta * of_target + (1.0 - beta) * skew_reverse_kl(output, target, alpha=1.0 - beta)


def forward_kl(output: Tensor, target: Tensor) -> Tensor:
    """Kullback-Leibler divergence KL(target ‖ softmax): cross entropy less the target's entropy."""
    log_p = log_softmax(output)
    return (torch.xlogy(target, target) - target * log_p).sum(-1)


def skew_kl(output: Tensor, target: Tensor, *, alpha: float = 0.1) -> Tensor:
    """Divergence KL(target ‖ mixture of softmax and target), finite for every output.

    Args:
        alpha: Share of the target in the mixture, between 0 and 1; towards 0 the loss becomes
            forward_kl.

    Raises:
        ValueError: `alpha` is not between 0 and 1.
    """
    _refuse_no_mixture("alpha", alpha)
    mixture = alpha * target + (1.0 - alpha) * exact_softmax(output)
    log_mixture = mixture.clamp(min=torch.finfo(mixture.dtype).tiny).log()
    return (torch.xlogy(target, target) - target * log_mixture).sum(-1)


def skew_reverse_kl(output: Tensor, target: Tensor, *, alpha: float = 0.1) -> Tensor:
    """Divergence KL(softmax ‖ mixture of target and softmax), finite for every label.

    Args:
        alpha: Share of the softmax in the mixture, between 0 and 1; towards 0 the loss becomes
            reverse_kl without its cut-off. In `skew_kl`, `alpha` is the share of the target.

    Raises:
        ValueError: `alpha` is not between 0 and 1.
    """
    _refuse_no_mixture("alpha", alpha)
    p = exact_softmax(output)
    # The mixture divided by α, so that the term of a wrong class is exactly 0, as in `js`.
    mixture = p + (1.0 - alpha) / alpha * target
    log_p, log_mixture = (x.clamp(min=torch.finfo(p.dtype).tiny).log() for x in (p, mixture))
    return (p * (log_p - log_mixture)).sum(-1) - math.log(alpha)


def _refuse_no_mixture(name: str, share: float) -> None:
    if not 0.0 < share < 1.0:
        raise ValueError(f"{name} is {share}: use a number above 0 and below 1")


def hellinger(output: Tensor, target: Tensor) -> Tensor:
    """Squared Hellinger distance, 1 - Σ√(py), between 0 and 1."""
    log_p = exact_log_softmax(output)
    return 1.0 - (target.sqrt() * (0.5 * log_p).exp()).sum(-1)


def bhattacharyya(output: Tensor, target: Tensor) -> Tensor:
    """Minus the logarithm of Σ√(py); on hard labels half of cross_entropy."""
    log_p = exact_log_softmax(output)
    return -(0.5 * (log_p + target.log())).logsumexp(-1)


def reverse_kl(output: Tensor, target: Tensor, *, log_zero: float = -4.0) -> Tensor:
    """Kullback-Leibler divergence KL(softmax ‖ target), Σ p log(p/y), in nats.

    Args:
        log_zero: Value used for log 0, negative; the true value would make a hard label cost
            infinity.
    """
    log_p = exact_log_softmax(output)
    # Less Σ p = 1, so that a wrong class at p = 1 has slope 0, not 1: float32 would keep only that.
    return 1.0 + (log_p.exp() * (log_p - 1.0)).sum(-1) + rce(output, target, log_zero=log_zero)


def chi2(output: Tensor, target: Tensor) -> Tensor:
    """Half of Pearson's chi-squared divergence, (Σ y²/p - 1)/2; on hard labels (1/p_c - 1)/2.

    Beyond an exponent of `links.LARGEST_EXPONENT` 1/p continues along its tangent and stays finite.
    """
    log_p = log_softmax(output)
    return 0.5 * ((target.square() * capped_exp(-log_p)).sum(-1) - 1.0)


def dice(output: Tensor, target: Tensor) -> Tensor:
    """One minus the Dice coefficient of softmax and target, per example, between 0 and 1.

    The denominator has squares; with plain sums in the denominator the loss would be `unhinged`.
    """
    p = exact_softmax(output)
    overlap = 2.0 * (p * target).sum(-1)
    return 1.0 - overlap / (p.square().sum(-1) + target.square().sum(-1))


DIVERGENCE = frozenset(
    {
        "gradient_is_derivative",
        "calibrated",
        "smooth",
        "translation_invariant",
        "permutation_invariant",
    }
)
"""Claims of every divergence of this family."""

LOCAL = DIVERGENCE | {"points_along_error", "local_weight", "minimised_at_target", "nonnegative"}
"""Claims of the divergences that on a hard label depend only on the label's probability."""

row = partial(Loss, family="divergence", task="classification", inverse_link="softmax")

ROWS = (
    row(
        fn=js,
        formula="Σ y log(y/m)/2 + p log(p/m)/2, m = (p + y)/2",
        claims=LOCAL | {"bounded_gradient", "vanishing_when_wrong"},
        source="Lin 1991, IEEE Transactions on Information Theory; Englesson and Azizpour 2021, "
        "NeurIPS",
        weight="p/2 log((1 + p)/p)",
        oracle="scipy, kornia",
    ),
    row(
        fn=jsd,
        formula="β Σ y log(y/m) + (1 - β) Σ p log(p/m), m = βy + (1 - β)p",
        claims=LOCAL | {"bounded_gradient", "vanishing_when_wrong"},
        source="Lin 1991; Agarwal et al. 2024, ICLR (generalized knowledge distillation)",
        weight="(1 - β) p log(1 + β/((1 - β)p))",
        oracle="scipy",
    ),
    row(
        fn=forward_kl,
        formula="Σ y log(y/p)",
        claims=LOCAL
        | {"gradient_is_error", "linear_in_target", "elicits_mean", "strictly_proper"}
        | {"convex", "bounded_gradient"},
        source="Kullback and Leibler 1951, Annals of Mathematical Statistics",
        weight="1",
        oracle="torch, scipy",
    ),
    row(
        fn=skew_kl,
        formula="Σ y log(y / (αy + (1 - α)p))",
        claims=LOCAL | {"bounded_gradient", "vanishing_when_wrong"},
        source="Lee 1999, ACL; Ko et al. 2024, ICML (DistiLLM)",
        weight="(1 - α)p / (α + (1 - α)p)",
        oracle="torch, scipy",
    ),
    row(
        fn=skew_reverse_kl,
        formula="Σ p log(p / ((1 - α)y + αp))",
        claims=LOCAL | {"bounded_gradient", "vanishing_when_wrong"},
        source="Ko et al. 2024, ICML (DistiLLM)",
        weight="p log(1 + r/p) - r p/(r + p), r = (1 - α)/α",
        oracle="torch, scipy",
    ),
    row(
        fn=hellinger,
        formula="1 - Σ √(p y)",
        claims=LOCAL | {"bounded_gradient", "vanishing_when_wrong"},
        source="Hellinger 1909; as a score in Shuford, Albert and Massengill 1966",
        weight="√p / 2",
        oracle="torch, scipy",
    ),
    row(
        fn=bhattacharyya,
        formula="-log Σ √(p y)",
        claims=LOCAL | {"elicits_mean", "strictly_proper", "bounded_gradient"},
        source="Bhattacharyya 1943, Bulletin of the Calcutta Mathematical Society",
        weight="1/2",
        oracle="torch",
    ),
    row(
        fn=reverse_kl,
        formula="Σ p (log p - max(log y, A))",
        claims=DIVERGENCE | {"bounded_gradient", "vanishing_when_wrong"},
        source="Kullback and Leibler 1951, the other way round",
        oracle="torch, scipy",
    ),
    row(
        fn=chi2,
        formula="(Σ y²/p - 1)/2",
        claims=LOCAL | {"convex"},
        source="Pearson 1900; Amari 2016 on its family",
        weight="1 / (2p)",
        oracle="scipy",
    ),
    row(
        fn=dice,
        formula="1 - 2 Σ p y / (Σ p² + Σ y²)",
        claims=DIVERGENCE
        | {"minimised_at_target", "bounded_gradient", "vanishing_when_wrong", "nonnegative"},
        source="Milletari, Navab and Ahmadi 2016, 3DV (there over the voxels of an image)",
    ),
)
