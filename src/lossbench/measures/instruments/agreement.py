"""Whether other losses would move the parameters the same way."""

from __future__ import annotations

from torch import Tensor

from lossbench.measures import probes
from lossbench.measures.instruments.moment import Moment, flat
from lossbench.records import AGREEMENT

CORE = {
    "classification": ("cross_entropy", "brier", "mae_probs", "quartic_probs", "focal", "gce"),
    "regression": ("mse", "mae", "quartic", "huber", "log_cosh"),
}
"""Losses that the own one is compared with, by task: one backward pass each."""


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
