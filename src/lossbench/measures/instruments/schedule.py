"""Steps at which instruments are due; the steps do not depend on measured time."""

from __future__ import annotations

import math

from lossbench.records import INSTRUMENTS

LARGEST_SHARE = 0.05
"""Largest share of training cost for an instrument between the first and last measurement."""


def interval(name: str, *, eval_every: int) -> int:
    """Number of updates from one measurement to the next: a multiple of `eval_every`."""
    fewest = math.ceil(INSTRUMENTS[name].cost / LARGEST_SHARE)
    return eval_every * max(1, math.ceil(fewest / eval_every))


def due(name: str, step: int, *, steps: int, eval_every: int) -> bool:
    """Whether an instrument measures the update of this step.

    The first and the last update are always measured. In a run shorter than `interval` only these
    two are measured, and they cost more than `LARGEST_SHARE` of the run.
    """
    return step % interval(name, eval_every=eval_every) == 0 or step == steps - 1


def times(name: str, *, steps: int, eval_every: int) -> int:
    """Number of measurements of an instrument in a run of `steps` updates."""
    return sum(due(name, step, steps=steps, eval_every=eval_every) for step in range(steps))
