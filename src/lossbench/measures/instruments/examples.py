"""Shares of examples in the update, and quantiles of the loss over examples."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lossbench.measures.instruments.moment import Moment, nothing

HARDEST = 0.1
"""Share of the batch that counts as hardest examples."""

LEVELS = (10, 50, 90, 99)
"""Quantiles of the loss, in percent."""


def error_signal(moment: Moment) -> dict[str, Tensor]:
    """Shares of the hardest and of the mislabelled examples in the squared output gradient.

    The hardest examples have the largest L2 norm of prediction - target. The shares are NaN if the
    output gradient is zero.
    """
    # Scaled by the largest entry first: cubed errors in float32 would overflow when squared.
    largest = moment.output_gradient.abs().flatten(1).amax(-1)[:, None, None]
    signal = (moment.output_gradient / largest).square().sum(-1)
    error = (moment.prediction - moment.target).square().sum(-1)
    hardest = error.topk(math.ceil(HARDEST * error.shape[-1]), -1).indices
    signal_mislabelled = mislabelled_share = nothing(moment)
    if moment.clean is not None:
        is_wrong = (moment.clean != moment.target).any(-1).to(signal.dtype)
        signal_mislabelled = (signal * is_wrong).sum(-1) / signal.sum(-1)
        mislabelled_share = is_wrong.mean(-1)
    return {
        "signal_hardest": signal.gather(-1, hardest).sum(-1) / signal.sum(-1),
        "signal_mislabelled": signal_mislabelled,
        "mislabelled_share": mislabelled_share,
    }


def loss_quantiles(moment: Moment) -> dict[str, Tensor]:
    """Quantiles of the run's own loss over the batch, interpolated between neighbours.

    Source:
        Type 7 of Hyndman and Fan 1996, The American Statistician: numpy's default.
    """
    ordered, quantiles = moment.loss.sort(-1).values, {}
    for level in LEVELS:
        place = level / 100 * (ordered.shape[-1] - 1)
        below, above = ordered[:, math.floor(place)], ordered[:, math.ceil(place)]
        # Not `lerp`, which kernels round differently.
        between = below + (place - math.floor(place)) * (above - below)
        quantile = torch.where(ordered.isfinite().all(-1), between, torch.nan)
        quantiles[f"loss_quantile_{level}"] = quantile
    return quantiles
