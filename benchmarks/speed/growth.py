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

from lossbench.engine.batches import Batches
from lossbench.engine.evaluate import evaluate, evaluate_trained
from lossbench.engine.members import assemble
from lossbench.engine.recorder import Recorder
from lossbench.engine.state import State
from lossbench.engine.strategies import strategy_of
from lossbench.engine.strategies.autograd import Autograd
from lossbench.engine.strategies.stack import Stack
from lossbench.engine.train import train
from lossbench.engine.training_losses import TrainingLosses
from lossbench.engine.update import Updates, keep_frozen
from lossbench.optimizers import OPTIMIZERS, scheduled
from speed.clock import Clock, Enough, lasting
from speed.tasks import pack
from speed.ways import Setting, trained

PARTS: dict[str, tuple[Callable[..., Any], ...]] = {
    "forward and backward": (Stack.trained, Autograd.trained),
    "losses": (TrainingLosses.__call__,),
    "batches": (Batches.at,),
    "optimizer": (OPTIMIZERS["sgd"], scheduled),
    "freezing of members": (keep_frozen, State.freeze),
    "probes": (Updates.probed,),
    "evaluation": (evaluate, evaluate_trained),
    "set-up": (assemble, strategy_of, Updates.__init__, Updates.start),
    "records": (Recorder.steps, Recorder.evals, Recorder.tables),
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
    (whole,) = (found[key][3] for key in _keys(train) if key in found)
    seconds = {
        part: sum(found[key][3] for one in functions for key in _keys(one) if key in found)
        for part, functions in PARTS.items()
    }
    seconds["other"] = whole - sum(seconds.values())
    return {part: seconds[part] / whole for part in sorted(seconds, key=seconds.get, reverse=True)}  # type: ignore[arg-type]


def _keys(function: Callable[..., Any]) -> list[tuple[str, int, str]]:
    """How cProfile names a function, and the `gradient_of` that it returns."""
    code = function.__code__  # that of the decorator, where there is one
    inner = [part for part in code.co_consts if getattr(part, "co_name", "") == "gradient_of"]
    return [(part.co_filename, part.co_firstlineno, part.co_name) for part in (code, *inner)]
