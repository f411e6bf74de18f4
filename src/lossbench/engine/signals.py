"""What drives an update: a loss's own error signal, or one with its scale or weighting alone.

Everything is computed at a member's own weights and batch, so nothing crosses members.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lossbench import records
from lossbench.engine.members import guarded
from lossbench.losses import LOSSES
from lossbench.losses.spec import NO_PARAMS
from lossbench.measures.probes import norm

Gradient = dict[str, Tensor]
GradientOf = Callable[[Tensor], Gradient]
"""What an output gradient [K, B, W] makes of all parameters, [K, ...] by name."""

Signal = Callable[[Tensor, Tensor, GradientOf], tuple[Tensor, Gradient]]


def own(slope: Tensor, reference: Tensor, gradient_of: GradientOf) -> tuple[Tensor, Gradient]:
    """The loss's own output gradient.

    Args:
        slope: Output gradient of the loss, [K, B, C].
        reference: Output gradient of the task's reference loss at the same outputs, [K, B, C].
        gradient_of: What an output gradient makes of the parameters.

    Returns:
        The output gradient that drives the update, and the gradient.
    """
    return slope, gradient_of(slope)


def norm_matched(
    slope: Tensor, reference: Tensor, gradient_of: GradientOf
) -> tuple[Tensor, Gradient]:
    """The loss's direction with the length of the reference's gradient: scale removed.

    Args, Returns: as for `own`. Where the loss has no gradient there is nothing to scale.
    """
    wanted = norm(gradient_of(reference).values())  # first, because a gradient holds to the next
    mine = gradient_of(slope)
    length = norm(mine.values())
    factor = torch.where(length > 0, wanted / length, torch.ones_like(length))
    scaled = {name: factor.view(-1, *[1] * (g.dim() - 1)) * g for name, g in mine.items()}
    return factor[:, None, None] * slope, scaled


def reweighted(
    slope: Tensor, reference: Tensor, gradient_of: GradientOf
) -> tuple[Tensor, Gradient]:
    """The reference's signal with the loss's weights of examples: weighting alone.

    An example weighs the length of the loss's output gradient over that of the reference's, over
    the mean of that in the batch.

    Args, Returns: as for `own`.
    """
    lengths = reference.square().sum(-1).sqrt()
    ratio = slope.square().sum(-1).sqrt() / lengths
    weight = torch.where(lengths > 0, ratio, torch.zeros_like(ratio))
    mean = weight.mean(-1, keepdim=True)
    share = torch.where(mean > 0, weight / mean, torch.zeros_like(weight))
    driving = share[..., None] * reference
    return driving, gradient_of(driving)


SIGNALS: dict[str, Signal] = {"own": own, "norm_matched": norm_matched, "reweighted": reweighted}
assert SIGNALS.keys() == records.SIGNALS.keys()


def reference_slope(task: str, output: Tensor, target: Tensor) -> Tensor:
    """Output gradient [K, B, C] of the task's reference loss at outputs [K, B, C]."""
    everyone = slice(0, len(output))
    leaf = guarded(output, everyone).requires_grad_()
    row = LOSSES[records.REFERENCE[task]]
    values = row.values(leaf, guarded(target, everyone), NO_PARAMS, None)
    return torch.autograd.grad(values.sum(), leaf)[0][: len(output)]
