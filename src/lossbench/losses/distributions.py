"""The distributions of a target that losses predict: their location, scale and degrees of freedom.

Their parameters are their losses', like those of the inverse links.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Predicted(NamedTuple):
    """Student's t around `location`; with infinitely many degrees of freedom it is Gaussian.

    Attributes:
        location: Where each target is expected, [..., C], in units of the target.
        scale: Same shape and unit; of a Gaussian its standard deviation.
        df: Degrees of freedom, one number for all.
    """

    location: Tensor
    scale: Tensor
    df: float


def gaussian(output: Tensor, *, eps: float) -> Predicted:
    """A Gaussian whose mean and log variance are predicted.

    Args:
        output: Means, then logarithms of the variances, [..., 2C].
        eps: Least variance, in squared units of the target.
    """
    mean, log_variance = output.chunk(2, -1)
    return Predicted(mean, (0.5 * log_variance.clamp(min=math.log(eps))).exp(), math.inf)


def student_t(output: Tensor, *, df: float, scale: float) -> Predicted:
    """Student's t around the output.

    Args:
        output: [..., C].
        df: Degrees of freedom.
        scale: In units of the target.
    """
    return Predicted(output, torch.full_like(output, scale), df)


DISTRIBUTIONS: dict[str, Callable[..., Predicted]] = {
    distribution.__name__: distribution for distribution in (gaussian, student_t)
}
