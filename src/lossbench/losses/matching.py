"""Matching (Fenchel-Young) losses: the output gradient is inverse_link(output) - target.

Every function takes the output and a target distribution, [..., C] each, and returns the loss
per example, [...].
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lossbench.losses import links
from lossbench.losses.softmax import log_softmax
from lossbench.losses.spec import Loss


def mse_logits(output: Tensor, target: Tensor) -> Tensor:
    """Half the squared error of raw outputs, no softmax: the prediction is the output itself."""
    return 0.5 * (output - target).square().sum(-1)


def bce_ova(output: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy of every class against the rest, summed over classes."""
    # log(1 + e^z) - yz = y log(1 + e^-z) + (1 - y) log(1 + e^z): each is small near its minimum.
    return (target * links.softplus(-output) + (1.0 - target) * links.softplus(output)).sum(-1)


def sparsemax(output: Tensor, target: Tensor) -> Tensor:
    """The matching loss of the sparsemax, the projection of the output onto the simplex."""
    return _fenchel_young(output, target, links.sparsemax(output), alpha=2.0)


def entmax15(output: Tensor, target: Tensor) -> Tensor:
    """The matching loss of the 1.5-entmax, whose probabilities are sparse and reach 0 smoothly."""
    return _fenchel_young(output, target, links.entmax15(output), alpha=1.5)


def entmax(output: Tensor, target: Tensor, *, alpha: float = 1.25) -> Tensor:
    """The matching loss of the alpha-entmax: cross_entropy at 1, entmax15 at 1.5, sparsemax at 2.

    Args:
        alpha: Index of the Tsallis entropy, from 1 to 2.
    """
    if alpha == 1.0:
        return (torch.xlogy(target, target) - target * log_softmax(output)).sum(-1)
    return _fenchel_young(output, target, links.entmax(output, alpha=alpha), alpha=alpha)


def _fenchel_young(output: Tensor, target: Tensor, p: Tensor, *, alpha: float) -> Tensor:
    """Loss Ω*(z) + Ω(y) - <z, y> at p = ∇Ω*(z); Ω is minus the Tsallis entropy of index alpha."""
    # The output less its largest entry: p - y sums to zero, but 1e4 times its rounding does not.
    below = output - output.amax(-1, keepdim=True)
    entropy = target.pow(alpha).sum(-1) - links.positive_power(p, alpha).sum(-1)
    return entropy / (alpha * (alpha - 1.0)) + ((p - target) * below).sum(-1)


MATCHING = frozenset(
    {
        "gradient_is_derivative",
        "gradient_is_error",
        "points_along_error",
        "local_weight",
        "minimised_at_target",
        "linear_in_target",
        "elicits_mean",
        "strictly_proper",
        "calibrated",
        "convex",
        "smooth",
        "permutation_invariant",
        "nonnegative",
    }
)
"""Claims of every matching loss whose inverse link is continuous."""

row = partial(Loss, family="matching", task="classification")

ROWS = (
    row(
        fn=mse_logits,
        inverse_link="identity",
        formula="Σ(z - y)²/2",
        claims=MATCHING,
        source="Hui and Belkin 2021, ICLR (there without the half and with rescaling)",
        oracle="torch",
    ),
    row(
        fn=bce_ova,
        inverse_link="sigmoid",
        formula="Σ log(1 + exp z) - yz",
        claims=MATCHING | {"bounded_gradient"},
        source="Rifkin and Klautau 2004, JMLR; Wightman, Touvron and Jégou 2021",
        oracle="torch, timm",
    ),
    row(
        fn=sparsemax,
        inverse_link="sparsemax",
        formula="(‖y - z‖² - ‖p - z‖²)/2",
        claims=MATCHING | {"bounded_gradient", "translation_invariant"},
        source="Martins and Astudillo 2016, ICML",
        oracle="entmax",
    ),
    row(
        fn=entmax15,
        inverse_link="entmax15",
        formula="Ω(y) - Ω(p) + Σ z(p - y), Ω(p) = 4/3 (Σ p^1.5 - 1)",
        claims=MATCHING | {"bounded_gradient", "translation_invariant"},
        source="Peters, Niculae and Martins 2019, ACL",
        oracle="entmax",
    ),
    row(
        fn=entmax,
        inverse_link="entmax",
        formula="Ω(y) - Ω(p) + Σ z(p - y), Ω(p) = (Σ p^α - 1)/(α(α - 1))",
        claims=MATCHING | {"bounded_gradient", "translation_invariant"},
        source="Blondel, Martins and Niculae 2020, JMLR",
        oracle="entmax",
    ),
)
