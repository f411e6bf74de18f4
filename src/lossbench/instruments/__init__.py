"""Instruments that say why a loss trains differently: `fn(moment) -> {metric: [K]}`, by name."""

from collections.abc import Callable

from torch import Tensor

from lossbench.instruments.agreement import gradient_agreement
from lossbench.instruments.curvature import curvature, sharpness
from lossbench.instruments.examples import error_signal, loss_quantiles
from lossbench.instruments.features import representation
from lossbench.instruments.moment import Moment
from lossbench.instruments.noise import gradient_noise
from lossbench.instruments.schedule import due, interval, times

MEASURES: dict[str, Callable[[Moment], dict[str, Tensor]]] = {
    measure.__name__: measure
    for measure in (
        *(error_signal, loss_quantiles, representation, gradient_agreement),
        *(gradient_noise, curvature, sharpness),
    )
}
"""By the names of `records.INSTRUMENTS`."""

__all__ = ["MEASURES", "Moment", "due", "interval", "times"]
