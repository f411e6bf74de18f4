"""Distributions of a target that losses predict, as functions of the output.

Keywords of such a function are parameters of the loss, as for the inverse links.
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
    """Student's t distribution around `location`; Gaussian if `df` is infinite.

    Attributes:
        location: Centre of the distribution of each target, [..., C], in units of the target.
        scale: Scale, with the same shape and unit; the standard deviation if `df` is infinite.
        df: Degrees of freedom, one number for all targets.
    """

    location: Tensor
    scale: Tensor
    df: float


class Piecewise(NamedTuple):
    """Distribution whose cumulative distribution function is linear between points.

    The function is 0 below the first point and 1 from the last point on. At these two points the
    function may jump.

    Attributes:
        points: Points in rising order, [..., C, P], in units of the target.
        levels: Values of the function at the points, rising, [..., C, P] or [P].
    """

    points: Tensor
    levels: Tensor


Predicted = StudentT | Piecewise


def gaussian(output: Tensor, *, eps: float) -> StudentT:
    """Gaussian distribution whose mean and log variance are predicted.

    Args:
        output: Means, then logarithms of the variances, [..., 2C].
        eps: Smallest variance, in squared units of the target.
    """
    mean, log_variance = output.chunk(2, -1)
    return StudentT(mean, (0.5 * log_variance.clamp(min=math.log(eps))).exp(), math.inf)


def student_t(output: Tensor, *, df: float, scale: float) -> StudentT:
    """Student's t distribution around the output.

    Args:
        output: Locations, [..., C].
        df: Degrees of freedom.
        scale: Scale, in units of the target.
    """
    return StudentT(output, torch.full_like(output, scale), df)


def quantiles(output: Tensor, *, outputs_per_target: int) -> Piecewise:
    """Distribution with the predicted quantiles, which are sorted if they cross.

    The probability beyond the outermost quantiles is placed at these two quantiles.

    Args:
        output: Quantiles at the `quantile_levels`, [..., nC].
        outputs_per_target: Number n of quantiles, odd.
    """
    points = of_each_target(output, outputs_per_target).sort(-1).values
    return Piecewise(points, quantile_levels(outputs_per_target, like=output).sort().values)


def bins(output: Tensor, *, outputs_per_target: int, low: float, high: float) -> Piecewise:
    """Distribution over bins of equal width, with uniform density inside each bin.

    Args:
        output: Logits of the bins, [..., nC].
        outputs_per_target: Number n of bins.
        low: Lower end of the first bin, in units of the target.
        high: Upper end of the last bin, in units of the target.
    """
    p = softmax(of_each_target(output, outputs_per_target))
    edges = bin_edges(outputs_per_target, low=low, high=high, like=output)
    levels = functional.pad(p.cumsum(-1), (1, 0)).clamp(max=1.0)
    return Piecewise(edges.expand_as(levels), levels)


def quantile_levels(count: int, *, like: Tensor) -> Tensor:
    """Evenly spaced quantile levels, [count]: first 1/2, then all other levels, rising.

    Raises:
        ValueError: `count` is even, so 1/2 is not one of the levels.
    """
    if count % 2 == 0:
        raise ValueError(f"{count} quantiles per target: use an odd number, one is the median")
    middle = (count + 1) // 2
    # Made on the device, because a graph cannot contain a copy to the device.
    place = torch.arange(count, dtype=like.dtype, device=like.device)
    order = torch.where(place < middle, place, place + 1)
    return torch.where(place == 0, middle, order) / (count + 1)


DISTRIBUTIONS: dict[str, Callable[..., Predicted]] = {
    distribution.__name__: distribution for distribution in (gaussian, student_t, quantiles, bins)
}
