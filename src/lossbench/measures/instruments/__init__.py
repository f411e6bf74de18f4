"""Instruments that explain why losses train differently: `fn(moment) -> {metric: [K]}`, by name."""

from collections.abc import Callable

from torch import Tensor

from lossbench.measures.instruments.curvature import curvature, sharpness
from lossbench.measures.instruments.examples import error_signal, loss_quantiles
from lossbench.measures.instruments.features import representation
from lossbench.measures.instruments.gradients import gradient_agreement, gradient_noise
from lossbench.measures.instruments.moment import Moment
from lossbench.measures.instruments.schedule import due, interval, times

MEASURES: dict[str, Callable[[Moment], dict[str, Tensor]]] = {
    measure.__name__: measure
    for measure in (
        error_signal,
        loss_quantiles,
        representation,
        gradient_agreement,
        gradient_noise,
        curvature,
        sharpness,
    )
}
"""Instruments by the names of `records.INSTRUMENTS`."""
