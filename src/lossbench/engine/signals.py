"""Signals that replace a loss's own gradient: without the loss's scale, or with its weights only.

All values are computed at the weights and the batch of one member, so members do not interact.
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
    """Gradient of the loss, rescaled to the norm of the gradient of the reference loss.

    Args:
        output_gradient: Output gradient of the loss, [K, B, C].
        reference: Output gradient of the task's reference loss at the same outputs, [K, B, C].
        gradient_of: Function from an output gradient to the gradient in the parameters.

    Returns:
        The output gradient that drives the update, and the gradient in the parameters. A gradient
        of zero is not scaled.
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
    """Output gradient of the reference loss, with examples weighted as in the loss.

    The weight of an example is the norm of the loss's output gradient over the norm of the
    reference's output gradient, divided by the mean of this ratio in the batch.

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
"""Functions by name in `records.SIGNALS`; the name "own" means the loss's own gradient."""
assert {"own", *CHANGED} == records.SIGNALS.keys()
