"""Losses for noisy labels: a label that the prediction contradicts has less influence.

Every function takes the output and a target distribution, [..., C] each, and returns the loss
per example, [...].
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from lossbench.losses.links import positive_power, tempered_softmax
from lossbench.losses.proper import cross_entropy
from lossbench.losses.softmax import exact_log_softmax, exact_softmax, log_softmax, softmax
from lossbench.losses.spec import Loss


def mae_probs(output: Tensor, target: Tensor) -> Tensor:
    """Absolute error of softmax probabilities, between 0 and 2; 2(1 - p_c) on a hard label c."""
    # Twice the sum over classes with p < y, which equals the sum over classes with p > y. A wrong
    # class then has no slope; at a probability of 1, float32 would keep that slope only.
    return 2.0 * (target - softmax(output)).clamp(min=0.0).sum(-1)


def unhinged(output: Tensor, target: Tensor) -> Tensor:
    """One minus the softmax probability of the label."""
    return 1.0 - (target * exact_softmax(output)).sum(-1)


def gce(output: Tensor, target: Tensor, *, q: float = 0.7) -> Tensor:
    """Generalised cross entropy (Lq loss, alpha-loss), between cross_entropy and unhinged.

    Args:
        q: Exponent, above 0, up to 1; towards 0 the loss becomes cross_entropy, 1 gives unhinged.
    """
    log_p = exact_log_softmax(output)
    # Not expm1: torch computes the derivative as 1 + expm1, which is 0 if expm1 rounds to -1.
    return (target * (1.0 - (q * log_p).exp())).sum(-1) / q


def rce(output: Tensor, target: Tensor, *, log_zero: float = -4.0) -> Tensor:
    """Reverse cross entropy, -Σ p log y: the target's logarithm is cut off at `log_zero`.

    Args:
        log_zero: Value used for log 0, negative. The paper says -4; the authors' code clamps
            the label at 1e-4 and so has -9.21.
    """
    return -log_zero - (exact_softmax(output) * _above(target, log_zero)).sum(-1)


def sce(
    output: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.1,
    beta: float = 1.0,
    log_zero: float = -4.0,
) -> Tensor:
    """Symmetric cross entropy: a weighted sum of cross_entropy and rce.

    Args:
        alpha: Factor of cross_entropy; the paper uses 0.1 for CIFAR-10 and 6 for CIFAR-100.
        beta: Factor of rce; the paper uses 1 for CIFAR-10 and 0.1 for CIFAR-100.
        log_zero: Value used for log 0, negative; see `rce`.
    """
    return alpha * cross_entropy(output, target) + beta * rce(output, target, log_zero=log_zero)


def nce(output: Tensor, target: Tensor) -> Tensor:
    """Normalised cross entropy: cross entropy divided by its sum over all labels; from 0 to 1."""
    if output.shape[-1] == 2:
        # With two classes, float32 needs an exact logarithm of a probability that rounds to 1.
        log_p = functional.logsigmoid(output - output.flip(-1))
    else:
        log_p = exact_log_softmax(output)
    # The target of the least likely class goes into a constant: the logarithm of that class may be
    # almost all of the sum and would round the other terms away.
    constant = target.gather(-1, log_p.argmin(-1, keepdim=True))
    return constant.squeeze(-1) + ((target - constant) * log_p).sum(-1) / log_p.sum(-1)


def nce_mae(output: Tensor, target: Tensor, *, alpha: float = 1.0, beta: float = 1.0) -> Tensor:
    """An active passive loss: a weighted sum of nce and mae_probs.

    Args:
        alpha: Factor of nce.
        beta: Factor of mae_probs, 2(1 - p_c) as in the paper; the authors' code has 1 - p_c.
    """
    return alpha * nce(output, target) + beta * mae_probs(output, target)


def nce_rce(
    output: Tensor,
    target: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    log_zero: float = -4.0,
) -> Tensor:
    """An active passive loss: a weighted sum of nce and rce.

    Args:
        alpha: Factor of nce.
        beta: Factor of rce.
        log_zero: Value used for log 0, negative; see `rce`.
    """
    return alpha * nce(output, target) + beta * rce(output, target, log_zero=log_zero)


def taylor_ce(output: Tensor, target: Tensor, *, t: int = 2) -> Tensor:
    """The first `t` terms of the Taylor series of cross entropy around p = 1.

    Args:
        t: Number of terms, 1 or more; 1 gives unhinged, infinitely many give cross_entropy.
    """
    miss = 1.0 - exact_softmax(output)
    terms = torch.stack([miss.pow(i) / i for i in range(1, t + 1)], -1)
    return (target * terms.sum(-1)).sum(-1)


def phuber_ce(output: Tensor, target: Tensor, *, tau: float = 10.0) -> Tensor:
    """Cross entropy that continues along its tangent below p = 1/`tau`, to bound the gradient.

    Args:
        tau: Largest slope with respect to p, above 1.
    """
    log_p = exact_log_softmax(output)
    linear = math.log(tau) + 1.0 - tau * log_p.exp()
    return (target * torch.where(log_p > -math.log(tau), -log_p, linear)).sum(-1)


def bi_tempered(output: Tensor, target: Tensor, *, t1: float = 0.8, t2: float = 1.4) -> Tensor:
    """Bi-tempered loss: tempered logarithm and softmax; cross_entropy at `t1` = `t2` = 1.

    Args:
        t1: Temperature of the logarithm, below 2; under 1 the loss is bounded.
        t2: Temperature of the softmax; above 1 its tail is heavy, below 1 its tail is cut off.

    Raises:
        ValueError: `t2` is below 1 and `t1` is not, so that a probability of 0 would cost infinity.
    """
    if t2 < 1.0 <= t1:
        raise ValueError(f"t1 is {t1} and t2 is {t2}: use t1 below 1, or t2 of 1 and more")
    p = tempered_softmax(output, t2=t2)
    if t1 == 1.0:
        log_p = log_softmax(output) if t2 == 1.0 else p.log()
        return (torch.xlogy(target, target) - target * log_p).sum(-1)
    # y (log_t y - log_t p) - (y^(2-t) - p^(2-t)) / (2 - t), log_t x = (x^(1-t) - 1) / (1 - t).
    reached = target * (positive_power(target, 1.0 - t1) - positive_power(p, 1.0 - t1)) / (1.0 - t1)
    return (
        reached - (positive_power(target, 2.0 - t1) - positive_power(p, 2.0 - t1)) / (2.0 - t1)
    ).sum(-1)


def _above(target: Tensor, log_zero: float) -> Tensor:
    """Logarithm of the target, cut off below at `log_zero`, minus `log_zero`.

    Probabilities sum to 1, so the same number may be subtracted for all classes. Here a wrong class
    gets 0 and therefore no slope; at a probability of 1, float32 would keep that slope only.
    """
    return (target.log() - log_zero).clamp(min=0.0)


ROBUST = frozenset(
    {
        "gradient_is_derivative",
        "calibrated",
        "bounded_gradient",
        "translation_invariant",
        "permutation_invariant",
        "nonnegative",
    }
)
"""Claims of every loss of this family."""

LOCAL = ROBUST | {"points_along_error", "local_weight"}
"""Claims of the losses that on a hard label depend only on the label's probability."""

SYMMETRIC = ROBUST | {"vanishing_when_wrong", "symmetric", "noise_tolerant"}
"""Claims of the losses whose sum over all labels is the same at every output."""

row = partial(Loss, family="robust", task="classification", inverse_link="softmax")

ROWS = (
    row(
        fn=mae_probs,
        formula="Σ|p - y|",
        claims=LOCAL | SYMMETRIC | {"minimised_at_target"},
        source="Ghosh, Kumar and Sastry 2017, AAAI",
        weight="2p",
        oracle="torch",
    ),
    row(
        fn=unhinged,
        formula="1 - Σ y p",
        claims=LOCAL | SYMMETRIC | {"linear_in_target", "smooth"},
        source="Van Rooyen, Menon and Williamson 2015, NeurIPS, on scores; behind a softmax as "
        "here in Menon et al. 2020, ICLR",
        weight="p",
        oracle="torch",
    ),
    row(
        fn=gce,
        formula="Σ y (1 - p^q)/q",
        claims=LOCAL | {"linear_in_target", "smooth", "vanishing_when_wrong"},
        source="Zhang and Sabuncu 2018, NeurIPS",
        weight="p^q",
        oracle="keras",
    ),
    row(
        fn=rce,
        formula="-Σ p max(log y, A), A = log_zero",
        claims=LOCAL | SYMMETRIC | {"smooth"},
        source="Wang et al. 2019, ICCV",
        weight="|A| p",
        oracle="torch",
    ),
    row(
        fn=sce,
        formula="-α Σ y log p - β Σ p max(log y, A)",
        claims=LOCAL | {"smooth"},
        source="Wang et al. 2019, ICCV",
        weight="α + β|A| p",
        oracle="torch",
    ),
    row(
        fn=nce,
        formula="Σ y log p / Σ log p",
        claims=SYMMETRIC | {"linear_in_target", "smooth"},
        source="Ma et al. 2020, ICML",
        oracle="torch",
    ),
    row(
        fn=nce_mae,
        formula="α Σ y log p / Σ log p + β Σ|p - y|",
        claims=SYMMETRIC,
        source="Ma et al. 2020, ICML",
        oracle="torch",
    ),
    row(
        fn=nce_rce,
        formula="α Σ y log p / Σ log p - β Σ p max(log y, A)",
        claims=SYMMETRIC | {"smooth"},
        source="Ma et al. 2020, ICML",
        oracle="torch",
    ),
    row(
        fn=taylor_ce,
        formula="Σ y Σᵢ (1 - p)ⁱ/i, i = 1 ... t",
        claims=LOCAL | {"linear_in_target", "smooth", "vanishing_when_wrong"},
        source="Feng et al. 2020, IJCAI",
        weight="1 - (1 - p)^t",
        oracle="scipy",
    ),
    row(
        fn=phuber_ce,
        formula="-Σ y log p if p > 1/τ else log τ + 1 - τp",
        claims=LOCAL | {"linear_in_target", "smooth", "vanishing_when_wrong"},
        source="Menon et al. 2020, ICLR",
        weight="min(1, τp)",
    ),
    row(
        fn=bi_tempered,
        inverse_link="tempered_softmax",
        formula="Σ y (log_t₁ y - log_t₁ p) - (y^(2-t₁) - p^(2-t₁))/(2 - t₁)",
        claims=ROBUST
        | {
            "minimised_at_target",
            "linear_in_target",
            "elicits_mean",
            "strictly_proper",
            "smooth",
            "vanishing_when_wrong",
        },
        source="Amid, Warmuth, Anil and Koren 2019, NeurIPS",
        oracle="pytorch-optimizer",
    ),
)
