"""Differences of the gradient between batches, and from the gradients of other losses."""

from __future__ import annotations

import torch
from torch import Tensor

from lossbench.measures import probes
from lossbench.measures.instruments.moment import Moment, flat
from lossbench.records import AGREEMENT

CORE = {
    "classification": ("cross_entropy", "brier", "mae_probs", "quartic_probs", "focal", "gce"),
    "regression": ("mse", "mae", "quartic", "huber", "log_cosh"),
}
"""Losses that the own one is compared with, by task: one backward pass each."""

GROUPS = 8
"""Parts of the batch whose gradients are compared: one backward pass each."""


def gradient_agreement(moment: Moment) -> dict[str, Tensor]:
    """Cosine of the own loss's gradient and those of the core losses, `agreement:NAME`.

    Gradients of the mean loss over the same batch with respect to all parameters, at the same
    parameters. NaN where the inverse link differs, where the own loss is NAME itself, and where a
    gradient is zero.
    """
    gradient = flat(moment.pull_back(moment.output_gradient).values())
    return {
        f"{AGREEMENT}{name}": probes.cosine(gradient, flat(moment.pull_back(other).values()))
        for name, other in moment.core_output_gradients().items()
    }


def gradient_noise(moment: Moment) -> dict[str, Tensor]:
    """The simple gradient noise scale tr(Sigma) / |G|², from gradients of parts of the batch.

    The batch is cut into M = min(8, B) groups of b = B // M examples, the rest is left out. With
    g_m a group's mean gradient and g their mean, tr(Sigma) = b sum |g_m - g|² / (M - 1) and
    |G|² = |g|² - tr(Sigma) / (M b). Both are unbiased for examples drawn independently; their ratio
    is not, and is NaN where the estimate of |G|² is not positive. With B <= 8 each example is a
    group. These are the formulas of two batch sizes, b and M b, averaged over the groups.

    Source:
        McCandlish, Kaplan, Amodei et al. 2018, arXiv 1812.06162, appendix A.1.
    """
    batch = moment.output_gradient.shape[1]
    count = min(GROUPS, batch)
    size = batch // count
    groups = []
    for start in range(0, count * size, size):
        group = slice(start, start + size)
        output_gradient = torch.zeros_like(moment.output_gradient)
        output_gradient[:, group] = moment.output_gradient[:, group]
        groups.append(flat(moment.pull_back(output_gradient).values()) / size)
    together = torch.stack(groups, -1)  # [K, P, M]
    mean = together.mean(-1)
    spread = (together - mean[..., None]).square().flatten(1).sum(-1) / max(count - 1, 1)
    trace = size * spread if count > 1 else spread * torch.nan
    square = mean.square().sum(-1) - trace / (count * size)
    scale = torch.where(square > 0, trace / square, torch.nan)
    return {
        "gradient_noise_trace": trace,
        "gradient_square": square,
        "gradient_noise_scale": scale,
    }
