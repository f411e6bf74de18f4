"""Margin losses: they ask that the label's output lead the other outputs, not for a probability.

Every function takes the output and a target distribution, [..., C] each, and returns the loss
per example, [...]. A margin loss is defined on labels; for a distribution, the function returns the
expected loss.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from lossbench.losses.links import capped_exp, capped_expm1
from lossbench.losses.softmax import log_softmax
from lossbench.losses.spec import Loss


def crammer_singer(output: Tensor, target: Tensor) -> Tensor:
    """The multiclass hinge: the amount by which the label's lead over the best other is below 1."""
    return (target * _lead_missing(output)).sum(-1)


def crammer_singer_squared(output: Tensor, target: Tensor) -> Tensor:
    """The square of the multiclass hinge."""
    return (target * _lead_missing(output).square()).sum(-1)


def weston_watkins(output: Tensor, target: Tensor) -> Tensor:
    """Sum of the hinges of the label's output against each other output."""
    return (target * _each_lead_missing(output).sum(-1)).sum(-1)


def weston_watkins_squared(output: Tensor, target: Tensor) -> Tensor:
    """Sum of the squared hinges of the label's output against each other output."""
    return (target * _each_lead_missing(output).square().sum(-1)).sum(-1)


def exponential(output: Tensor, target: Tensor) -> Tensor:
    """Sum of the exponentials of each other output's lead over the label's output.

    Beyond an exponent of `links.LARGEST_EXPONENT` the loss continues along its tangent and stays
    finite.
    """
    # Σ exp(z_j - z_c) over j ≠ c is 1/p_c - 1.
    return (target * capped_expm1(-log_softmax(output))).sum(-1)


def ova_hinge(output: Tensor, target: Tensor) -> Tensor:
    """The hinge of every class against the rest, summed over classes."""
    return _one_versus_all(output, target, lambda margin: (1.0 - margin).clamp(min=0.0))


def ova_squared_hinge(output: Tensor, target: Tensor) -> Tensor:
    """The squared hinge of every class against the rest, summed over classes."""
    return _one_versus_all(output, target, lambda margin: (1.0 - margin).clamp(min=0.0).square())


def ova_exponential(output: Tensor, target: Tensor) -> Tensor:
    """Exponential of the negative margin of a class against the rest, summed over classes.

    Beyond an exponent of `links.LARGEST_EXPONENT` the loss continues along its tangent and stays
    finite.
    """
    return _one_versus_all(output, target, lambda margin: capped_exp(-margin))


def savage(output: Tensor, target: Tensor) -> Tensor:
    """Squared sigmoid of minus twice the margin; bounded, so that outliers do not dominate."""
    # Not sigmoid: torch computes the derivative as s(1 - s), which is 0 if s rounds to 1.
    return _one_versus_all(
        output, target, lambda margin: (2.0 * functional.logsigmoid(-2.0 * margin)).exp()
    )


def tangent(output: Tensor, target: Tensor) -> Tensor:
    """Tangent loss (2 atan v - 1)² of the margin v; bounded, and a too large margin costs too."""
    return _one_versus_all(output, target, lambda margin: (2.0 * margin.atan() - 1.0).square())


def _one_versus_all(
    output: Tensor, target: Tensor, of_margin: Callable[[Tensor], Tensor]
) -> Tensor:
    """Sum over classes of a loss of the margin: z for the label's class, -z for other classes."""
    return (target * of_margin(output) + (1.0 - target) * of_margin(-output)).sum(-1)


def _lead_missing(output: Tensor) -> Tensor:
    """Hinge [1 + largest other output - own output]₊ with each class as the label, [..., C]."""
    best = output.topk(2, dim=-1)
    others = best.values[..., :1].expand_as(output)
    others = others.scatter(-1, best.indices[..., :1], best.values[..., 1:])
    return (1.0 + others - output).clamp(min=0.0)


def _each_lead_missing(output: Tensor) -> Tensor:
    """Hinge [1 + other output - own output]₊ of each class and each other class, [..., C, C]."""
    lead = 1.0 + output.unsqueeze(-2) - output.unsqueeze(-1)
    other = ~torch.eye(output.shape[-1], dtype=torch.bool, device=output.device)
    return torch.where(other, lead, 0.0).clamp(min=0.0)


MARGIN = frozenset(
    {"gradient_is_derivative", "linear_in_target", "permutation_invariant", "nonnegative"}
)
"""Claims of every margin loss."""

PROPER = MARGIN | {"minimised_at_target", "elicits_mean", "strictly_proper", "calibrated", "smooth"}
"""Claims of the margin losses that are proper scores behind their inverse link."""

row = partial(Loss, family="margin", task="classification")

ROWS = (
    row(
        fn=crammer_singer,
        inverse_link="identity",
        formula="[1 + max z_j - z_c]₊, j ≠ c",
        claims=MARGIN | {"convex", "bounded_gradient", "translation_invariant"},
        source="Crammer and Singer 2001, JMLR",
        oracle="scikit-learn",
    ),
    row(
        fn=crammer_singer_squared,
        inverse_link="identity",
        formula="[1 + max z_j - z_c]₊², j ≠ c",
        claims=MARGIN | {"convex", "translation_invariant"},
        source="Crammer and Singer 2001, JMLR; squared as in L2 support vector machines",
        oracle="scikit-learn",
    ),
    row(
        fn=weston_watkins,
        inverse_link="identity",
        formula="Σ [1 + z_j - z_c]₊, j ≠ c",
        claims=MARGIN | {"convex", "bounded_gradient", "translation_invariant"},
        source="Weston and Watkins 1999, ESANN",
        oracle="torch",
    ),
    row(
        fn=weston_watkins_squared,
        inverse_link="identity",
        formula="Σ [1 + z_j - z_c]₊², j ≠ c",
        claims=MARGIN | {"calibrated", "convex", "smooth", "translation_invariant"},
        source="Weston and Watkins 1999, ESANN; squared as in L2 support vector machines",
        oracle="torch",
    ),
    row(
        fn=exponential,
        inverse_link="doubled_softmax",
        formula="Σ exp(z_j - z_c), j ≠ c",
        claims=PROPER | {"convex", "translation_invariant"},
        source="Freund and Schapire 1997 (AdaBoost.M2); Schapire and Freund 2012, Boosting",
        oracle="scikit-learn",
    ),
    row(
        fn=ova_hinge,
        inverse_link="identity",
        formula="Σ [1 - v]₊, v = ±z",
        claims=MARGIN | {"convex", "bounded_gradient"},
        source="Rifkin and Klautau 2004, JMLR",
        oracle="torch, scikit-learn, keras",
    ),
    row(
        fn=ova_squared_hinge,
        inverse_link="half_margin",
        formula="Σ [1 - v]₊², v = ±z",
        claims=PROPER | {"convex"},
        source="Janocha and Czarnecki 2017",
        oracle="scikit-learn, keras",
    ),
    row(
        fn=ova_exponential,
        inverse_link="doubled_sigmoid",
        formula="Σ exp(-v), v = ±z",
        claims=PROPER | {"convex"},
        source="Freund and Schapire 1997, Journal of Computer and System Sciences",
        oracle="scikit-learn",
    ),
    row(
        fn=savage,
        inverse_link="doubled_sigmoid",
        formula="Σ 1/(1 + exp 2v)², v = ±z",
        claims=PROPER | {"bounded_gradient", "vanishing_when_wrong"},
        source="Masnadi-Shirazi and Vasconcelos 2008, NeurIPS",
        oracle="torch, scoringrules",
    ),
    row(
        fn=tangent,
        inverse_link="tangent",
        formula="Σ (2 atan v - 1)², v = ±z",
        claims=PROPER | {"bounded_gradient", "vanishing_when_wrong"},
        source="Masnadi-Shirazi, Mahadevan and Vasconcelos 2010, CVPR",
        oracle="torch",
    ),
)
