"""THE training loop. One pack, any module, any device; nothing crosses members."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pyarrow as pa
import torch

from lossbench.data.splits import Splits
from lossbench.engine.arithmetic import arithmetic
from lossbench.engine.checkpoint import Saved, Snapshot, decoded, encoded
from lossbench.engine.course import Course, probed
from lossbench.engine.evaluate import evaluated
from lossbench.engine.members import gathered
from lossbench.engine.moments import Instruments
from lossbench.engine.recorder import Recorder
from lossbench.engine.strategies import strategy_of
from lossbench.engine.update import Updates
from lossbench.runs import Run
from lossbench.runs.packs import Pack


def train(
    pack: Pack,
    splits_by_seed: Mapping[int, Splits],
    *,
    device: torch.device,
    padding: int,
    flush: Callable[[int, Snapshot], None],
    saved: Saved | None = None,
    noted: Mapping[str, str] | None = None,
    is_kernel_wanted: bool = False,
) -> dict[str, pa.Table]:
    """Train the runs of a pack together.

    Args:
        pack: Runs of one structure, equal losses side by side.
        splits_by_seed: Data by seed, corruption applied.
        device: Where to train.
        padding: Least number of members; 2 on the CPU, one fixed number per sweep on CUDA.
        flush: Called after updates, on the CPU after each but the last, with the number of updates
            done and what takes a snapshot of the state; that is of now, so take it at once. What it
            raises ends the training.
        saved: Where to go on, instead of from the start; same pack, data, versions and threads.
        noted: Further facts for the column `environment`.
        is_kernel_wanted: Whether the Triton kernel makes the updates between two logged ones where
            it can, see docs/performance.md.

    Returns:
        The tables runs, steps, layers and evals. Members that diverge or fail are frozen, the
        others are not touched by it, bit for bit.

    Raises:
        ValueError: The batch is larger than the training split.
    """
    with arithmetic(device, pack.runs[0].precision):
        start = time.monotonic()
        members = gathered(pack, splits_by_seed, device=device, padding=padding)
        run = members.runs[0]
        strategy = strategy_of(members)
        recorder = Recorder(pack, members, device=device)
        updates = Updates(members, strategy, recorder)
        course = Course(members, updates, is_kernel_wanted=is_kernel_wanted)
        instruments = Instruments(members, strategy.forward)
        step = 0
        if saved is not None:
            found = _restored(saved, recorder, device)
            updates.restore(found)
            step = found["step"]
            start -= found["seconds"]
        judged = partial(evaluated, members, strategy.forward, updates.parameters, updates.buffers)
        while step < run.steps:
            if step % run.eval_every == 0:
                recorder.evals(step, judged(is_last=False))
            names, count = instruments.due(step), 1
            if names:
                update = updates.shown()
                if step % run.log_every == 0:
                    recorder.steps(step, *probed(members, update))
                recorder.instruments(step, instruments.measured(names, step, update))
            elif step % run.log_every == 0:
                recorder.steps(step, *course.logged())
            else:
                count = _quiet(run, instruments, step, most=course.most)
                course.advance(count)
            step += count
            if step < run.steps:
                seconds = time.monotonic() - start
                flush(step, partial(_saved, updates, recorder, seconds))
        recorder.evals(run.steps, judged(is_last=True))
        assert int(updates.clock) == run.steps  # which also waits until the device has done them
        strategies = " ".join([strategy.name, course.name]).strip()
        noted = {**(noted or {}), "strategy": strategies}
        return recorder.tables(seconds=time.monotonic() - start, noted=noted)


def _quiet(run: Run, instruments: Instruments, step: int, *, most: int) -> int:
    """Updates from a step on, before which nothing is logged, measured or evaluated."""
    stops = range(step + 1, min(step + most, run.steps))
    rhythms = run.log_every, run.eval_every
    for stop in stops:
        if any(stop % every == 0 for every in rhythms) or instruments.due(stop):
            return stop - step
    return stops.stop - step


def _saved(updates: Updates, recorder: Recorder, seconds: float) -> Saved:
    kept = {**updates.kept, "seconds": seconds, "recorder": recorder.state}
    return Saved(kept["step"], encoded(kept), (encoded(recorder.part()),))


def _restored(saved: Saved, recorder: Recorder, device: torch.device) -> dict[str, Any]:
    """What `Updates.restore` is given, and the seconds spent."""
    found = decoded(saved.checkpoint, device=device)
    recorder.restore(found["recorder"], [decoded(part, device=device) for part in saved.parts])
    return found
