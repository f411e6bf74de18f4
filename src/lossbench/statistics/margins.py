"""The margin of a context: the least difference that matters, in the metric and as a share."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lossbench import records

_WORDS = re.compile(r"(\d+\.?\d*|\.\d+) ?(?:(% of error)|of target)")


STEADY = 1.2
"""Largest ratio between the target's standard deviations of two seeds at which results are given in
the target's unit: above it, the larger of two results may be the smaller in the other unit."""


@dataclass(frozen=True)
class Margin:
    """A declared margin in all its units.

    Attributes:
        value: Margin in the unit of the metric; 0 if the declaration refers to an error or to a
            target's scale that is unknown.
        share: Margin as a share of the reference's error on validation; NaN if the error is unknown
            or 0.
        reference: Name of the reference loss.
        scale: One unit of the metric in the target's own unit; NaN if the metric has another
            unit than the target, or the target's scale or unit is unknown or differs from seed to
            seed.
        unit: Unit of the target; empty if it is unknown.
        declared: The margin as it was declared.
    """

    value: float
    share: float
    reference: str
    scale: float
    unit: str
    declared: float | str

    @property
    def in_target(self) -> float:
        """Margin in the target's own unit; NaN if `scale` is NaN."""
        return self.value * self.scale


def in_words(text: str) -> tuple[float, str]:
    """Number and base of `10% of error` (0.1, "error") or `500 of target` (500, "target").

    Raises:
        ValueError: The text has another form, or the number is not positive.
    """
    match = _WORDS.fullmatch(text.strip())
    if match is None or not float(match[1]) > 0:
        raise ValueError(
            f"{text!r} is not a margin: use a number, or one like '10% of error' or '500 of target'"
        )
    share = bool(match[2])
    return float(match[1]) / (100 if share else 1), "error" if share else "target"


def resolved_margin(
    declared: float | str, runs: pd.DataFrame, *, metric: str, reference: str, unit: str = ""
) -> Margin:
    """Convert a declared margin to the unit of the metric, and to a share of the reference's error.

    The error is the distance of the metric from its value for a perfect prediction, on validation,
    as the median over seeds, because a margin describes a usual seed. No test value is used.

    Args:
        declared: A number in the unit of the metric, or a text like `10% of error`, or, in the
            target's own unit, `500 of target`.
        runs: Runs of the reference on the seeds of the first look, at the candidate that the
            reference chose on these seeds, with the metric on validation.
        metric: The primary metric.
        reference: Name of the reference.
        unit: Unit of the target, in words; empty if it is unknown.
    """
    facts = records.metric_of(metric)
    error = float((runs[metric] - facts.perfect).abs().median())
    is_known = math.isfinite(error) and error > 0
    scale, is_steady = np.nan, False
    if facts.unit == records.STANDARD and "target_scale" in runs:
        scales = runs.target_scale.astype(float)
        scale, is_steady = float(scales.mean()), scales.max() <= STEADY * scales.min()
    value = declared
    if isinstance(value, str):
        number, of = in_words(value)
        value = number * error if of == "error" else number / scale
        # Rounded to the three digits that are printed, so that the printed margin decides.
        value = float(f"{value:.3g}") if math.isfinite(value) else 0.0
    share = value / error if is_known else np.nan
    return Margin(
        float(value), share, reference, scale if unit and is_steady else np.nan, unit, declared
    )
