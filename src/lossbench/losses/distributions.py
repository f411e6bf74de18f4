"""The distributions of a target that losses predict.

Their parameters are their losses', like those of the inverse links.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lossbench.losses.links import bin_edges, of_each_target
from lossbench.losses.softmax import softmax


class StudentT(NamedTuple):
    """Student's t around `location`; with infinitely many degrees of freedom it is Gaussian.

    Attributes:
        location: Where each target is expected, [..., C], in units of the target.
        scale: Same shape and unit; of a Gaussian its standard deviation.
        df: Degrees of freedom, one number for all.
    """

    location: Tensor
    scale: Tensor
    df: float


class Piecewise(NamedTuple):
    """A distribution function that is linear between points.

    It is 0 below the first point and 1 from the last one on, and may jump at these two.

    Attributes:
        points: Rising, [..., C, P], in units of the target.
        levels: The distribution function there, rising, [..., C, P] or [P].
    """

    points: Tensor
    levels: Tensor


Predicted = StudentT | Piecewise


def gaussian(output: Tensor, *, eps: float) -> StudentT:
    """A Gaussian whose mean and log variance are predicted.

    Args:
        output: Means, then logarithms of the variances, [..., 2C].
        eps: Least variance, in squared units of the target.
    """
    mean, log_variance = output.chunk(2, -1)
    return StudentT(mean, (0.5 * log_variance.clamp(min=math.log(eps))).exp(), math.inf)


def student_t(output: Tensor, *, df: float, scale: float) -> StudentT:
    """Student's t around the output.

    Args:
        output: [..., C].
        df: Degrees of freedom.
        scale: In units of the target.
    """
    return StudentT(output, torch.full_like(output, scale), df)


def quantiles(output: Tensor, *, outputs_per_target: int) -> Piecewise:
    """Quantiles, in their order where they cross; as much as lies beyond them lies at the ends.

    Args:
        output: [..., nC], at the `quantile_levels`.
        outputs_per_target: n, odd.
    """
    points = of_each_target(output, outputs_per_target).sort(-1).values
    return Piecewise(points, quantile_levels(outputs_per_target, like=output).sort().values)


def bins(output: Tensor, *, outputs_per_target: int, low: float, high: float) -> Piecewise:
    """Probabilities of equal bins, spread evenly inside each.

    Args:
        output: Logits, [..., nC].
        outputs_per_target: n, of bins.
        low: Lower end of the first bin, in units of the target.
        high: Upper end of the last one.
    """
    p = softmax(of_each_target(output, outputs_per_target))
    edges = bin_edges(outputs_per_target, low=low, high=high, like=output)
    levels = functional.pad(p.cumsum(-1), (1, 0)).clamp(max=1.0)
    return Piecewise(edges.expand_as(levels), levels)


def quantile_levels(count: int, *, like: Tensor) -> Tensor:
    """Evenly spaced levels, [count]: that of the median, then all others, rising.

    Raises:
        ValueError: `count` is even: none of the levels is that of the median.
    """
    if count % 2 == 0:
        raise ValueError(f"{count} quantiles per target: use an odd number, one is the median")
    middle = (count + 1) // 2
    # Made on the device: what is copied there no graph can hold.
    place = torch.arange(count, dtype=like.dtype, device=like.device)
    order = torch.where(place < middle, place, place + 1)
    return torch.where(place == 0, middle, order) / (count + 1)


DISTRIBUTIONS: dict[str, Callable[..., Predicted]] = {
    distribution.__name__: distribution for distribution in (gaussian, student_t, quantiles, bins)
}
