"""What a measurement says of a claim, and how it is judged."""

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
class Verdict:
    """What a measurement says of one claim. True in a boolean context when the claim holds.

    Args:
        holds: Whether the worst case lies within the tolerance.
        witness: One sentence: the worst case, the number measured there and the tolerance.
        margin: Decades from the measured number up to the tolerance; negative when the claim
            fails, near zero when the verdict hangs on the tolerance.
    """

    holds: bool
    witness: str
    margin: float

    def __bool__(self) -> bool:
        return self.holds


NOT_OF_LABELS = Verdict(
    False, "a regression loss scores a number, not a distribution of labels", -math.inf
)
"""The verdict on a regression loss where a claim speaks of labels."""


def claim(measurement: Callable[[Loss, int], Verdict]) -> Callable[[Loss], Verdict]:
    """A claim, as the least favourable verdict over the numbers C of targets of the loss's task.

    Args:
        measurement: Gives the verdict on a loss, at the default parameters of its function, with C
            targets. Its docstring says what is claimed, and by what it is judged.
    """

    @functools.wraps(measurement)
    def measured(loss: Loss) -> Verdict:
        verdicts = {outputs: measurement(loss, outputs) for outputs in OUTPUTS[loss.task]}
        return least_favourable(
            *(
                replace(verdict, witness=f"C={outputs}: {verdict.witness}")
                for outputs, verdict in verdicts.items()
            )
        )

    return measured


def claim_about_labels(measurement: Callable[[Loss, int], Verdict]) -> Callable[[Loss], Verdict]:
    """A `claim` that no regression loss makes."""
    measured = claim(measurement)

    @functools.wraps(measurement)
    def measured_on_labels(loss: Loss) -> Verdict:
        return NOT_OF_LABELS if loss.task == "regression" else measured(loss)

    return measured_on_labels


def least_favourable(*verdicts: Verdict) -> Verdict:
    """The verdict with the smallest margin, the first of them in a tie."""
    return min(verdicts, key=lambda verdict: verdict.margin)


def at_most(measured: float, tolerance: float, witness: str) -> Verdict:
    """Judge a number of 0 or more that is to be small; what is not a number is infinitely bad.

    Args:
        measured: The number.
        tolerance: The largest that it may be.
        witness: What was measured, as a clause; the tolerance is added.
    """
    if math.isnan(measured):
        measured = math.inf
    margin = math.log10(tolerance) - math.log10(measured) if measured > 0 else math.inf
    return Verdict(measured <= tolerance, f"{witness} (tolerance {tolerance:g})", margin)


def compare(
    measured: Tensor,
    expected: Tensor,
    *,
    names: tuple[str, str],
    tolerance: float,
    scale: Tensor | float = 1.0,
) -> Verdict:
    """Judge M cases by the worst.

    Args:
        measured: [M, W].
        expected: What it is to be, [M, W].
        names: What the two are called in the witness.
        tolerance: Largest difference that may be, relative to `scale`.
        scale: Size of a typical entry, [M] or one for all.
    """
    difference = (measured - expected).abs()
    off = difference.amax(-1)
    # No difference is none at any scale, even at zero.
    off = torch.where(off == 0, 0.0, off / scale).nan_to_num(nan=math.inf, posinf=math.inf)
    case = int(off.argmax())
    place, worst = int(difference[case].argmax()), float(off[case])
    witness = (
        f"{names[0]} {float(measured[case, place]):.4g},"
        f" {names[1]} {float(expected[case, place]):.4g}, off by {worst:.2g}"
    )
    return at_most(worst, tolerance, witness)
