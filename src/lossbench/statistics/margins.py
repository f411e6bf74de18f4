"""The margin of a context: the difference that matters, in the metric and as a share."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lossbench import records

_WORDS = re.compile(r"(\d+\.?\d*|\.\d+) ?(?:(% of error)|of target)")


STEADY = 1.2
"""The target's standard deviation may differ so much from seed to seed, as a factor, for results to
be told in its own unit: else what is the larger in one unit need not be it in the other."""


@dataclass(frozen=True)
class Margin:
    """A margin, resolved.

    Attributes:
        value: In the unit of the metric; 0 where a share of an error was declared that no run has.
        share: Of the reference's error on validation; NaN where that is unknown.
        reference: Whose error.
        scale: One unit of the metric in the target's own unit; NaN where that means nothing, is
            unknown, or differs from seed to seed.
        unit: Of the target.
        declared: As declared.
    """

    value: float
    share: float
    reference: str
    scale: float
    unit: str
    declared: float | str

    @property
    def in_target(self) -> float:
        """In the target's own unit; NaN where that is unknown."""
        return self.value * self.scale


def in_words(text: str) -> tuple[float, str]:
    """The number in `10% of error` or `500 of target`, and its base: "error" or "target".

    Raises:
        ValueError: It is no such text, or the number is not positive.
    """
    match = _WORDS.fullmatch(text.strip())
    if match is None or not float(match[1]) > 0:
        raise ValueError(
            f"{text!r} is not a margin: use a number, or one like '10% of error' or '500 of target'"
        )
    share = bool(match[2])
    return float(match[1]) / (100 if share else 1), "error" if share else "target"


def resolved_margin(
    declared: float | str,
    runs: pd.DataFrame,
    *,
    metric: str,
    reference: str,
    unit: str = "",
) -> Margin:
    """A declared margin in the unit of the metric, and as a share of the reference's error.

    The error is the distance of the metric from that of a perfect prediction, on validation, the
    median over seeds: a margin is a statement on a usual seed. No test value enters.

    Args:
        declared: A number in the unit of the metric, or a text like `10% of error`, or, in the
            target's own unit, `500 of target`.
        runs: Those of the reference on the seeds of the first look, at the candidate that it chose
            on them, with the metric on validation.
        metric: The primary one.
        reference: Name of the reference.
        unit: Of the target, in words; empty where it is unknown.
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
        # What is printed is what decides: three digits.
        value = float(f"{value:.3g}") if math.isfinite(value) else 0.0
    share = value / error if is_known else np.nan
    return Margin(
        float(value), share, reference, scale if unit and is_steady else np.nan, unit, declared
    )
