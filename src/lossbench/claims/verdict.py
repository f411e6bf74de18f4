"""What a measurement says of a claim, and how it is judged."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

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


def worst(measurement: Callable[[Loss, int], Verdict], loss: Loss) -> Verdict:
    """The least favourable verdict over the numbers of targets of the loss's task."""
    return least_favourable(*(measurement(loss, outputs) for outputs in OUTPUTS[loss.task]))


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
    got: Tensor,
    wanted: Tensor,
    *,
    names: tuple[str, str],
    tolerance: float,
    outputs: int,
    scale: Tensor | float = 1.0,
) -> Verdict:
    """Judge M cases by the worst.

    Args:
        got: What was measured, [M, W].
        wanted: What it is to be, [M, W].
        names: What the two are called in the witness.
        tolerance: Largest difference that may be, relative to `scale`.
        outputs: Number C of targets at which they were measured.
        scale: Size of a typical entry, [M] or one for all.
    """
    difference = (got - wanted).abs()
    off = difference.amax(-1)
    # No difference is none at any scale, even at zero.
    off = torch.where(off == 0, 0.0, off / scale).nan_to_num(nan=math.inf, posinf=math.inf)
    case = int(off.argmax())
    at = int(difference[case].argmax())
    measured = float(off[case])
    witness = (
        f"C={outputs}: {names[0]} {float(got[case, at]):.4g},"
        f" {names[1]} {float(wanted[case, at]):.4g}, off by {measured:.2g}"
    )
    return at_most(measured, tolerance, witness)
