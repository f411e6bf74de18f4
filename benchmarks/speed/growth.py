"""How time grows with members and with steps, and where it goes in our loop."""

from __future__ import annotations

import contextlib
import cProfile
import pstats
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lossbench.engine.capture import Captured
from lossbench.engine.course import Course, _stretch, _told, probed
from lossbench.engine.evaluate import evaluated
from lossbench.engine.members import Members, gathered
from lossbench.engine.recorder import Recorder
from lossbench.engine.signals import own
from lossbench.engine.strategies import strategy_of
from lossbench.engine.strategies.autograd import Autograd
from lossbench.engine.strategies.stack import Stack
from lossbench.engine.train import train
from lossbench.engine.update import PerMemberLoss, Updates, _is_everyone, _live
from lossbench.optimizers import OPTIMIZERS, fresh_state, scheduled
from speed.clock import Clock, Enough, lasting
from speed.tasks import pack
from speed.ways import Setting, trained

THROUGH: tuple[Callable[..., Any], ...] = (
    *(train, own, Captured.__call__, Course.advance, Course.logged),
    *(Course._replay, _stretch, _told, Updates.once, Updates.shown, Updates._made, Updates._part),
)
"""Functions whose time is that of what they call, and their own."""

PARTS: dict[str, tuple[Callable[..., Any], ...]] = {
    "forward and backward": (Stack.output, Stack.gradient, Autograd.output, Autograd.gradient),
    "losses": (PerMemberLoss.__call__,),
    "batches": (Members.batch,),
    "optimizer": (OPTIMIZERS["sgd"], scheduled),
    "freezing of members": (_live, _is_everyone),
    "probes": (probed,),
    "evaluation": (evaluated,),
    "set-up": (gathered, strategy_of, Updates.__init__, fresh_state, Stack.arranged),
    "records": (Recorder.steps, Recorder.evals, Recorder.check, Recorder.tables),
}
"""Parts of the loop, by the functions they are; what is in none is `other`."""

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
    watch = Clock(stamps[-1], torch.device(setting.device), marks=stamps)
    device = torch.device(setting.device)
    runs = pack(setting.task, members, steps=lasting(stamps[-1], device))
    with contextlib.suppress(Enough):
        trained(runs, setting, watch)
    begin, wall, processor = watch.seen[0]
    seen = [(step - begin, at - wall, used - processor) for step, at, used in watch.seen[1:]]
    return [next(row for row in seen if row[0] >= stamp) for stamp in stamps]


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
    through = {_key(function) for function in THROUGH}
    part_of = {_key(one): part for part, functions in PARTS.items() for one in functions}
    whole, seconds = found[_key(train)][3], dict.fromkeys(PARTS, 0.0)
    for called, (*_, callers) in found.items():
        if called in part_of:
            by_loop = sum(spent[3] for caller, spent in callers.items() if caller in through)
            seconds[part_of[called]] += by_loop
    seconds["other"] = whole - sum(seconds.values())
    return {part: seconds[part] / whole for part in sorted(seconds, key=seconds.get, reverse=True)}  # type: ignore[arg-type]


def _key(function: Callable[..., Any]) -> tuple[str, int, str]:
    """How cProfile names a function."""
    code = function.__code__  # that of the decorator, where there is one
    return code.co_filename, code.co_firstlineno, code.co_name
