"""How time grows with members and with steps, and where it goes in our loop."""

from __future__ import annotations

import contextlib
import cProfile
import pstats
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from speed.clock import WARM, Clock, Enough
from speed.tasks import pack
from speed.ways import Setting, trained

PARTS = {
    "wrapped": "forward and backward",
    "loop": "forward and backward",
    "call": "forward and backward",
    "own": "forward and backward",
    "_gradient": "forward and backward",
    "batch": "batches",
    "__call__": "losses",
    "decorate_context": "evaluation",  # its no_grad
    "steps": "probes",
    "layers": "probes",
    "measured": "probes",
    "sgd": "optimizer",
    "scheduled": "optimizer",
    "_of_the_living": "freezing",
    "gathered": "set-up",
    "forward_of": "set-up",
    "is_moving": "set-up",
    "tables": "tables",
}
"""Part of the loop, by the function that `train` calls; what is not listed is `other`."""

STEPS = 240
"""Updates of the pack whose growth with steps is looked at: after a sixteenth, an eighth, ..."""


@dataclass(frozen=True)
class Line:
    """Least-squares line through seconds per step of packs of K members, relative errors.

    Attributes:
        constant: Seconds per step, whatever K is.
        each: Seconds per step and member.
    """

    constant: float
    each: float


def line(members: Sequence[int], seconds: Sequence[float]) -> Line:
    """The line of seconds per step over members; neither part is below zero."""
    from scipy.optimize import nnls

    counts, times = np.asarray(members, float), np.asarray(seconds)
    design = np.stack([np.ones_like(counts), counts], 1) / times[:, None]
    (constant, each), _ = nnls(design, np.ones_like(times))
    return Line(float(constant), float(each))


def exponent(x: Sequence[float], seconds: Sequence[float]) -> float:
    """Slope of log seconds over log x: 1 is linear."""
    return float(np.polyfit(np.log(x), np.log(seconds), 1)[0])


def over_steps(setting: Setting, *, members: int) -> list[tuple[int, float, float]]:
    """Of one pack without logging: updates done, and seconds on the wall and of the processor."""
    steps = 16 if setting.is_quick else STEPS
    stamps = [steps // part for part in (16, 8, 4, 2, 1)]
    watch = Clock(stamps[-1], torch.device(setting.device))
    runs = pack(setting.task, members, steps=WARM + stamps[-1] + 1)
    with contextlib.suppress(Enough):
        trained(runs, setting, watch)
    _, wall, processor = watch.seen[0]
    seen = {row[0] - WARM: (row[1] - wall, row[2] - processor) for row in watch.seen}
    return [(stamp, *seen[stamp]) for stamp in stamps]


def profile(setting: Setting, *, members: int, steps: int) -> dict[str, float]:
    """Share of time by part of the loop, with the default logging and evaluation.

    Args:
        setting: What is trained.
        members: K.
        steps: Updates; every 10th is logged, every 100th evaluated.

    Returns:
        Shares of the whole of `train`, largest first.
    """
    runs = pack(setting.task, members, steps=steps, log_every=10, eval_every=100)
    profiler = cProfile.Profile()
    profiler.runcall(trained, runs, setting, lambda step, snapshot: None)
    found: dict[Any, Any] = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    (loop,) = (key for key in found if key[2] == "train" and key[0].endswith("train.py"))
    whole, seconds = found[loop][3], {}
    for (_, _, name), row in found.items():
        if loop in row[4]:
            part = PARTS.get(name, "other")
            seconds[part] = seconds.get(part, 0.0) + row[4][loop][3]
    seconds["other"] = whole - sum(time for part, time in seconds.items() if part != "other")
    return {part: seconds[part] / whole for part in sorted(seconds, key=seconds.get, reverse=True)}  # type: ignore[arg-type]
