"""Agreement of the gradient with the gradients of other losses, and noise of the gradient."""

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
"""Losses with which a run's own loss is compared, by task; each costs one backward pass."""

GROUPS = 8
"""Number of groups of examples whose gradients are compared; each costs one backward pass."""


def gradient_agreement(moment: Moment) -> dict[str, Tensor]:
    """Cosine between the gradients of the own loss and of each core loss, `agreement:NAME`.

    Gradients are those of the mean loss over the same batch with respect to all parameters, at the
    same parameters. NaN if the inverse link differs, if the own loss is NAME, or if a gradient is
    zero.
    """
    gradient = flat(moment.pull_back(moment.output_gradient).values())
    return {
        f"{AGREEMENT}{name}": probes.cosine(gradient, flat(moment.pull_back(other).values()))
        for name, other in moment.core_output_gradients().items()
    }


def gradient_noise(moment: Moment) -> dict[str, Tensor]:
    """Estimate the simple gradient noise scale tr(Sigma) / |G|² from groups of the batch.

    The batch is cut into M = min(8, B) groups of b = B // M examples, and the remainder is left
    out. With g_m a group's mean gradient and g the mean of the g_m,
    tr(Sigma) = b sum |g_m - g|² / (M - 1) and |G|² = |g|² - tr(Sigma) / (M b). Both estimates are
    unbiased for independent examples. The ratio is biased, and NaN if the estimate of |G|² is not
    positive. These formulas are those of two batch sizes, b and M b, averaged over groups.

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
