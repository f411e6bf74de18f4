"""The margin of a task: how large a difference must be to matter, in the metric and as a share."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lossbench import records

_SHARE = re.compile(r"(\d+\.?\d*|\.\d+) ?% of error")


@dataclass(frozen=True)
class Margin:
    """A margin, resolved.

    Attributes:
        value: In the unit of the metric; 0 where a share of an error was declared that no run has.
        share: Of the reference's error on validation; NaN where that is unknown.
        reference: Whose error.
        in_target: In the target's own unit; NaN where that means nothing or is unknown.
        unit: Of the target.
        declared: As declared.
    """

    value: float
    share: float
    reference: str
    in_target: float
    unit: str
    declared: float | str


def share_of_error(text: str) -> float:
    """The share in a text like `10% of error`.

    Raises:
        ValueError: It is no such text, or no positive percentage.
    """
    match = _SHARE.fullmatch(text.strip())
    if match is None or not float(match[1]) > 0:
        raise ValueError(f"{text!r} is no share of an error: use one like '10% of error'")
    return float(match[1]) / 100


def resolved_margin(
    declared: float | str, runs: pd.DataFrame, *, metric: str, reference: str, unit: str = ""
) -> Margin:
    """A declared margin in the unit of the metric, and as a share of the reference's error.

    The error is the distance of the metric from that of a perfect prediction, on validation, mean
    over seeds. No test value enters.

    Args:
        declared: A number in the unit of the metric, or a text like `10% of error`.
        runs: Those of the reference on the seeds of the first look, at the candidate that it chose
            on them, with the metric on validation.
        metric: The primary one.
        reference: Name of the reference.
        unit: Of the target, in words; empty where it is unknown.
    """
    facts = records.metric_of(metric)
    error = float((runs[metric] - facts.perfect).abs().mean())
    is_known = math.isfinite(error) and error > 0
    if isinstance(declared, str):
        # What is printed is what decides: three digits.
        value = float(f"{share_of_error(declared) * error:.3g}") if is_known else 0.0
    else:
        value = float(declared)
    scale = np.nan
    if unit and facts.unit == records.STANDARD and "target_scale" in runs:
        scale = float(runs.target_scale.astype(float).mean())
    share = value / error if is_known else np.nan
    return Margin(value, share, reference, value * scale, unit, declared)
