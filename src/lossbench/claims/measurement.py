"""Measurement of a claim about a loss: the result, its tolerance and the worst case."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lossbench.losses.spec import Loss

OUTPUTS = {"regression": (1, 3), "classification": (2, 4, 10)}
"""Numbers C of targets at which a loss of each task is measured."""


@dataclass(frozen=True)
class Measurement:
    """Result of measuring one claim about a loss; true in a boolean context if the claim holds.

    Args:
        holds: Whether the worst case lies within the tolerance.
        witness: One sentence: the worst case, the number measured there and the tolerance.
        margin: Decades from the measured number up to the tolerance; negative if the claim fails,
            near zero if the result depends on the choice of tolerance.
    """

    holds: bool
    witness: str
    margin: float

    def __bool__(self) -> bool:
        return self.holds


NOT_OF_LABELS = Measurement(
    False, "a regression loss scores a number, not a distribution of labels", -math.inf
)
"""Measurement of every regression loss for a claim about labels."""


def claim(measure: Callable[[Loss, int], Measurement]) -> Callable[[Loss], Measurement]:
    """Decorator that measures a claim at every number C of targets and returns the worst result.

    Args:
        measure: Function that measures a loss, at the loss's default parameters, with C targets.
            The docstring states the claim and the rule by which the claim is judged.
    """

    @functools.wraps(measure)
    def measure_all(loss: Loss) -> Measurement:
        measurements = {outputs: measure(loss, outputs) for outputs in OUTPUTS[loss.task]}
        return least_favourable(
            *(
                replace(measurement, witness=f"C={outputs}: {measurement.witness}")
                for outputs, measurement in measurements.items()
            )
        )

    return measure_all


def claim_about_labels(
    measure: Callable[[Loss, int], Measurement],
) -> Callable[[Loss], Measurement]:
    """Decorator like `claim` for a claim about labels, which every regression loss fails."""
    measure_all = claim(measure)

    @functools.wraps(measure)
    def measure_on_labels(loss: Loss) -> Measurement:
        return NOT_OF_LABELS if loss.task == "regression" else measure_all(loss)

    return measure_on_labels


def least_favourable(*measurements: Measurement) -> Measurement:
    """Measurement with the smallest margin, the first of them in a tie."""
    return min(measurements, key=lambda measurement: measurement.margin)


def at_most(measured: float, tolerance: float, witness: str) -> Measurement:
    """Measurement from a nonnegative number that should be small; NaN counts as infinity.

    Args:
        measured: Number to judge.
        tolerance: Largest number at which the claim holds.
        witness: Clause with the number and its place, to which the tolerance is added.
    """
    if math.isnan(measured):
        measured = math.inf
    margin = math.log10(tolerance) - math.log10(measured) if measured > 0 else math.inf
    return Measurement(measured <= tolerance, f"{witness} (tolerance {tolerance:g})", margin)


def compare(
    measured: Tensor,
    expected: Tensor,
    *,
    names: tuple[str, str],
    tolerance: float,
    scale: Tensor | float = 1.0,
) -> Measurement:
    """Measurement from M cases, judged by the largest difference from the expected numbers.

    Args:
        measured: Measured numbers, [M, W].
        expected: Numbers that the claim predicts, [M, W].
        names: Names of the measured and the expected numbers in the witness.
        tolerance: Largest difference at which the claim holds, relative to `scale`.
        scale: Size of a typical entry, [M] or one number for all cases.
    """
    difference = (measured - expected).abs()
    off = difference.amax(-1)
    # A difference of 0 counts as 0 at any scale, even at a scale of 0.
    off = torch.where(off == 0, 0.0, off / scale).nan_to_num(nan=math.inf, posinf=math.inf)
    case = int(off.argmax())
    index, worst = int(difference[case].argmax()), float(off[case])
    witness = (
        f"{names[0]} {float(measured[case, index]):.4g},"
        f" {names[1]} {float(expected[case, index]):.4g}, off by {worst:.2g}"
    )
    return at_most(worst, tolerance, witness)
