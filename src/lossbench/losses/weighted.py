"""Losses that weight hard examples or rare classes differently.

Every function takes the output and a target distribution, [..., C] each, and returns the loss
per example, [...]. Losses for long-tailed classes ask for a `Context`, which has the class
counts.
"""

from __future__ import annotations

import math
import sys
from functools import partial

import torch
from torch import Tensor

from lossbench.losses.proper import cross_entropy
from lossbench.losses.robust import unhinged
from lossbench.losses.softmax import exact_log_softmax, log_softmax
from lossbench.losses.spec import Context, Loss


def focal(output: Tensor, target: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Cross entropy with less weight on examples whose label is already likely.

    Args:
        gamma: Focusing parameter, 0 or more; 0 is cross_entropy.
    """
    log_p = log_softmax(output)
    return -(target * _miss(log_p).pow(gamma) * log_p).sum(-1)


def poly1(output: Tensor, target: Tensor, *, epsilon: float = 2.0) -> Tensor:
    """Cross entropy with a changed first coefficient in its expansion in powers of 1 - p.

    Args:
        epsilon: Number added to the first coefficient, -1 or more; 0 is cross_entropy. The
            default is the paper's for ImageNet.
    """
    return cross_entropy(output, target) + epsilon * unhinged(output, target)


def asl(
    output: Tensor,
    target: Tensor,
    *,
    gamma_pos: float = 0.0,
    gamma_neg: float = 4.0,
    eps: float = 0.1,
) -> Tensor:
    """The asymmetric loss for single labels: smoothed cross entropy with two focusing parameters.

    Args:
        gamma_pos: Focusing on the label, as in `focal`; 0 or more.
        gamma_neg: Focusing on the other classes, whose smoothed share is weighted by p^gamma_neg; 0
            or more.
        eps: Label smoothing, between 0 and 1.
    """
    log_p = log_softmax(output)
    share = eps / output.shape[-1]
    of_label = (1.0 - eps + share) * _miss(log_p).pow(gamma_pos) * log_p
    of_other = share * (gamma_neg * log_p).exp() * log_p
    return -(target * of_label + (1.0 - target) * of_other).sum(-1)


def dft(output: Tensor, target: Tensor) -> Tensor:
    """Cross entropy weighted by the label's probability; the weight passes no gradient.

    The gradient is exactly that of `unhinged`, so it is not the derivative of the loss's value.
    """
    log_p = exact_log_softmax(output)
    return -(target * log_p.exp().detach() * log_p).sum(-1)


def eaft(output: Tensor, target: Tensor, *, k: int = 20) -> Tensor:
    """Cross entropy weighted by the entropy of the softmax; the weight passes no gradient.

    The entropy is divided by its largest possible value. If the model is certain, the label has
    little influence.

    Args:
        k: Number of classes, 2 or more: the entropy is that of a softmax over the `k` largest
            outputs, or over all outputs if there are fewer.

    Raises:
        ValueError: `k` is below 2.
    """
    if k < 2:
        raise ValueError(f"k is {k}: use 2 or more, because a single class has no entropy")
    count = min(k, output.shape[-1])
    weight = _entropy(output.detach().topk(count).values) / math.log(count)
    return weight * cross_entropy(output, target)


def unlikelihood(output: Tensor, target: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Cross entropy plus `alpha` times the sum of -log(1 - p) over the other classes.

    Args:
        alpha: Weight of the other classes, 0 or more; 0 is cross_entropy.
    """
    places = torch.arange(output.shape[-1], device=output.device)
    is_largest = places == output.argmax(-1, keepdim=True)
    # 1 - p of the largest output is the sum of the other p, accurate in float32 even at 1e-9.
    others = torch.where(is_largest, -math.inf, output).logsumexp(-1, keepdim=True)
    of_largest = others - output.logsumexp(-1, keepdim=True)
    share = torch.where(is_largest, 0.0, log_softmax(output).exp())
    log_miss = torch.where(is_largest, of_largest, (-share).log1p())
    return cross_entropy(output, target) - alpha * ((1.0 - target) * log_miss).sum(-1)


def class_balanced(
    output: Tensor, target: Tensor, *, context: Context, beta: float = 0.9999
) -> Tensor:
    """Cross entropy with each class weighted by the inverse of its effective number of examples.

    Args:
        context: Class counts n make the weights (1 - beta)/(1 - beta^n), scaled to sum to C.
        beta: Number from 0 to below 1; 0 is cross_entropy, towards 1 the weights go as 1/n.
    """
    # 1 - beta^n without the cancellation near beta = 1; the log of 0 would be infinite.
    effective = -(_counts(context) * math.log(max(beta, sys.float_info.min))).expm1()
    weight = 1.0 / effective
    weight = output.shape[-1] * weight / weight.sum(-1, keepdim=True)
    return -(target * weight * log_softmax(output)).sum(-1)


def ldam(
    output: Tensor, target: Tensor, *, context: Context, max_m: float = 0.5, s: float = 30.0
) -> Tensor:
    """Cross entropy with a margin on the label's output that is larger for rarer classes.

    Args:
        context: Class counts n make the margins, proportional to n^(-1/4).
        max_m: Margin of the rarest class, 0 or more.
        s: Factor on the outputs, positive.
    """
    # Not pow(-0.25), whose bits depend on where in a tensor a number lies.
    margin = _counts(context).sqrt().sqrt().reciprocal()
    margin = max_m * margin / margin.amax(-1, keepdim=True)
    # Row c has the output of class c lowered: [..., C, C].
    lowered = s * (output.unsqueeze(-2) - torch.diag_embed(margin))
    log_p = log_softmax(lowered).diagonal(dim1=-2, dim2=-1)
    return -(target * log_p).sum(-1)


def logit_adjusted(output: Tensor, target: Tensor, *, context: Context, tau: float = 1.0) -> Tensor:
    """Cross entropy of the outputs plus `tau` times the logarithms of the class frequencies.

    Args:
        context: Class counts, which divided by their sum give the frequencies.
        tau: Factor on the logarithms, 0 or more; 0 is cross_entropy.
    """
    counts = _counts(context)
    prior = counts / counts.sum(-1, keepdim=True)
    return cross_entropy(output + tau * prior.log(), target)


def _counts(context: Context) -> Tensor:
    """Class counts, at least 1: a class without examples gets the count 1."""
    return context.class_counts.clamp(min=1.0)


def _miss(log_p: Tensor) -> Tensor:
    """Value of 1 - p, but never 0, at which a power below 1 has an infinite slope."""
    return (-log_p.expm1()).clamp(min=torch.finfo(log_p.dtype).tiny)


def _entropy(output: Tensor) -> Tensor:
    """Entropy of the softmax, in nats, [...]."""
    below = output - output.amax(-1, keepdim=True)
    share, is_largest = below.exp(), below == 0
    # The sum of all exponentials less the 1 of the largest, accurate in float32 even at 1e-9.
    ties = is_largest.to(share.dtype).sum(-1) - 1.0
    rest = torch.where(is_largest, 0.0, share).sum(-1) + ties
    return rest.log1p() - (share * below).sum(-1) / (1.0 + rest)


WEIGHTED = frozenset(
    {
        "gradient_is_derivative",
        "linear_in_target",
        "smooth",
        "bounded_gradient",
        "translation_invariant",
        "nonnegative",
    }
)
"""Claims of every loss of this family."""

OF_HARDNESS = WEIGHTED | {"calibrated", "permutation_invariant"}
"""Claims of the losses that weight examples and treat all classes alike."""

row = partial(Loss, family="weighted", task="classification", inverse_link="softmax")

ROWS = (
    row(
        fn=focal,
        formula="-Σ y (1 - p)^γ log p",
        claims=OF_HARDNESS | {"points_along_error", "local_weight"},
        source="Lin et al. 2017, ICCV; behind a softmax in Mukhoti et al. 2020, NeurIPS",
        weight="(1 - p)^γ - γ p (1 - p)^(γ-1) log p",
        oracle="torchvision, kornia, keras",
    ),
    row(
        fn=poly1,
        formula="-Σ y log p + ε(1 - Σ y p)",
        claims=OF_HARDNESS | {"points_along_error", "local_weight"},
        source="Leng et al. 2022, ICLR",
        weight="1 + εp",
        oracle="timm",
    ),
    row(
        fn=asl,
        formula="-Σ (1 - ε + ε/C) y (1 - p)^γ₊ log p + ε/C (1 - y) p^γ₋ log p",
        claims=OF_HARDNESS | {"convex"},
        source="Ridnik et al. 2021, ICCV, in its form for single labels",
        oracle="timm",
    ),
    row(
        fn=dft,
        formula="-Σ y [p] log p, [p] without gradient",
        claims=(OF_HARDNESS - {"gradient_is_derivative"})
        | {"points_along_error", "local_weight", "vanishing_when_wrong", "noise_tolerant"},
        source="Wu et al. 2025, arXiv 2508.05629 (dynamic fine-tuning)",
        weight="p",
        oracle="torch",
    ),
    row(
        fn=eaft,
        formula="-[H(p) / log k] Σ y log p, H of the k largest, [·] without gradient",
        claims=(OF_HARDNESS - {"gradient_is_derivative"})
        | {"points_along_error", "vanishing_when_wrong"}
        | {"minimised_at_target", "elicits_mean", "strictly_proper"},
        source="Diao et al. 2026, arXiv 2601.02151 (entropy-adaptive fine-tuning)",
        oracle="torch",
    ),
    row(
        fn=unlikelihood,
        formula="-Σ y log p + α (1 - y) log(1 - p)",
        claims=OF_HARDNESS | {"minimised_at_target", "elicits_mean", "strictly_proper"},
        source="Welleck et al. 2020, ICLR, there of tokens that were said before",
        oracle="torch",
    ),
    row(
        fn=class_balanced,
        formula="-Σ w y log p, w ∝ (1 - β)/(1 - β^n)",
        claims=WEIGHTED | {"points_along_error", "convex"},
        source="Cui et al. 2019, CVPR",
        oracle="torch",
    ),
    row(
        fn=ldam,
        inverse_link="scaled_softmax",
        formula="-log softmax(s(z - m_c e_c))_c, m ∝ n^(-1/4)",
        claims=WEIGHTED | {"points_along_error", "convex"},
        source="Cao et al. 2019, NeurIPS",
        oracle="pytorch-optimizer",
    ),
    row(
        fn=logit_adjusted,
        formula="-Σ y log softmax(z + τ log(n/Σn))",
        claims=WEIGHTED | {"convex"},
        source="Menon et al. 2021, ICLR",
        oracle="torch",
    ),
)
