"""Signals that drive an update in place of a loss's own: scale removed, or the weighting alone.

Everything is computed at a member's own weights and batch, so nothing crosses members.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lossbench import records
from lossbench.engine.strategy import GradientOf
from lossbench.measures.probes import norm

Changed = Callable[[Tensor, Tensor, GradientOf], tuple[Tensor, Mapping[str, Tensor]]]


def norm_matched(
    output_gradient: Tensor, reference: Tensor, gradient_of: GradientOf
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """The loss's direction with the length of the reference's gradient: scale removed.

    Args:
        output_gradient: Of the loss, [K, B, C].
        reference: Output gradient of the task's reference loss at the same outputs, [K, B, C].
        gradient_of: From an output gradient to that in the parameters.

    Returns:
        The output gradient that drives the update, and the gradient. Where the loss has no gradient
        there is nothing to scale.
    """
    reference_length = norm(gradient_of(reference).values())
    gradient = gradient_of(output_gradient)
    length = norm(gradient.values())
    factor = torch.where(length > 0, reference_length / length, torch.ones_like(length))
    scaled = {
        name: factor.view(-1, *[1] * (value.dim() - 1)) * value for name, value in gradient.items()
    }
    return factor[:, None, None] * output_gradient, scaled


def reweighted(
    output_gradient: Tensor, reference: Tensor, gradient_of: GradientOf
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """The reference's signal with the loss's weights of examples: weighting alone.

    An example weighs the length of the loss's output gradient over that of the reference's, over
    the mean of that in the batch.

    Args, Returns: as for `norm_matched`.
    """
    lengths = reference.square().sum(-1).sqrt()
    ratio = output_gradient.square().sum(-1).sqrt() / lengths
    weight = torch.where(lengths > 0, ratio, torch.zeros_like(ratio))
    mean = weight.mean(-1, keepdim=True)
    share = torch.where(mean > 0, weight / mean, torch.zeros_like(weight))
    signal = share[..., None] * reference
    return signal, gradient_of(signal)


CHANGED: dict[str, Changed] = {"norm_matched": norm_matched, "reweighted": reweighted}
"""By their names in `records.SIGNALS`; the other one there is the loss's own."""
assert {"own", *CHANGED} == records.SIGNALS.keys()
