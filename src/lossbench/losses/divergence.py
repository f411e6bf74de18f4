"""Divergences between the target distribution and the softmax, other than cross entropy's.

None is linear in the target, so hard labels may teach them something else than the distribution
does. Every function takes the output and a target distribution, [..., C] each, and returns the
divergence per example, [...].
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
    # Where p underflows and the target is 0, their sum is 0 too, and nothing is added.
    log_p, log_sum = (x.clamp(min=torch.finfo(p.dtype).tiny).log() for x in (p, p + target))
    # Σ y log(y/m) and Σ p log(p/m) less log 2 each: a wrong class has exactly 0 of both.
    of_target = torch.xlogy(target, target) - target * log_sum
    return math.log(2.0) + 0.5 * (of_target + p * (log_p - log_sum)).sum(-1)


def jsd(output: Tensor, target: Tensor, *, beta: float = 0.1) -> Tensor:
    """The generalised Jensen-Shannon divergence: of both from their mean, weighed alike.

    Args:
        beta: Weight of the target, between 0 and 1; 1/2 is js. Over `beta` it goes to forward_kl
            as that goes to 0.

    Raises:
        ValueError: `beta` is not between 0 and 1.
    """
    _refuse_no_mixture("beta", beta)
    of_target = skew_kl(output, target, alpha=beta)
    return beta * of_target + (1.0 - beta) * skew_reverse_kl(output, target, alpha=1.0 - beta)


def forward_kl(output: Tensor, target: Tensor) -> Tensor:
    """Divergence of the softmax from the target: cross entropy less the target's entropy."""
    log_p = log_softmax(output)
    return (torch.xlogy(target, target) - target * log_p).sum(-1)


def skew_kl(output: Tensor, target: Tensor, *, alpha: float = 0.1) -> Tensor:
    """`forward_kl` from a mixture of softmax and target, which no zero makes infinite.

    Args:
        alpha: Share of the target in the mixture, between 0 and 1; towards 0 it is forward_kl.

    Raises:
        ValueError: `alpha` is not between 0 and 1.
    """
    _refuse_no_mixture("alpha", alpha)
    mixture = alpha * target + (1.0 - alpha) * exact_softmax(output)
    log_mixture = mixture.clamp(min=torch.finfo(mixture.dtype).tiny).log()
    return (torch.xlogy(target, target) - target * log_mixture).sum(-1)


def skew_reverse_kl(output: Tensor, target: Tensor, *, alpha: float = 0.1) -> Tensor:
    """Divergence of a mixture of target and softmax from the softmax: finite for every label.

    Args:
        alpha: Share of the softmax in the mixture, between 0 and 1; towards 0 it is reverse_kl with
            nothing cut off. In `skew_kl` it is that of the target.

    Raises:
        ValueError: `alpha` is not between 0 and 1.
    """
    _refuse_no_mixture("alpha", alpha)
    p = exact_softmax(output)
    # The mixture over α, so that a wrong class has exactly no slope: see `js`.
    mixture = p + (1.0 - alpha) / alpha * target
    log_p, log_mixture = (x.clamp(min=torch.finfo(p.dtype).tiny).log() for x in (p, mixture))
    return (p * (log_p - log_mixture)).sum(-1) - math.log(alpha)


def _refuse_no_mixture(name: str, share: float) -> None:
    if not 0.0 < share < 1.0:
        raise ValueError(f"{name} is {share}: use a number between 0 and 1, neither of them")


def hellinger(output: Tensor, target: Tensor) -> Tensor:
    """Squared Hellinger distance, 1 - Σ√(py), between 0 and 1."""
    log_p = exact_log_softmax(output)
    return 1.0 - (target.sqrt() * (0.5 * log_p).exp()).sum(-1)


def bhattacharyya(output: Tensor, target: Tensor) -> Tensor:
    """Minus the logarithm of Σ√(py); on hard labels half of cross_entropy."""
    log_p = exact_log_softmax(output)
    return -(0.5 * (log_p + target.log())).logsumexp(-1)


def reverse_kl(output: Tensor, target: Tensor, *, log_zero: float = -4.0) -> Tensor:
    """Divergence of the target from the softmax, Σ p log(p/y), in nats.

    Args:
        log_zero: Value of log 0, negative; without it a hard label costs infinity.
    """
    log_p = exact_log_softmax(output)
    # Σ p is 1: with it off, a certain wrong class has no slope that would be all float32 keeps.
    return 1.0 + (log_p.exp() * (log_p - 1.0)).sum(-1) + rce(output, target, log_zero=log_zero)


def chi2(output: Tensor, target: Tensor) -> Tensor:
    """Half of Pearson's chi-squared divergence, (Σ y²/p - 1)/2; on hard labels (1/p_c - 1)/2.

    Beyond an exponent of `links.LARGEST_EXPONENT` 1/p goes on along its tangent, to stay finite.
    """
    log_p = log_softmax(output)
    return 0.5 * ((target.square() * capped_exp(-log_p)).sum(-1) - 1.0)


def dice(output: Tensor, target: Tensor) -> Tensor:
    """One minus the Dice coefficient of softmax and target, example by example, between 0 and 1.

    The form with squares in the denominator; with plain sums there it is `unhinged`.
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
"""Claims of those that are, on a hard label, functions of its probability alone."""

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
