"""THE training loop. One pack, any module, any device; nothing crosses members."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from lossbench import probes
from lossbench.data.splits import Splits
from lossbench.engine.checkpoint import Saved, Snapshot, decoded, encoded
from lossbench.engine.evaluate import evaluated
from lossbench.engine.members import Members, gathered
from lossbench.engine.moments import Instruments
from lossbench.engine.recorder import Recorder
from lossbench.engine.strategies import joined, strategy_of
from lossbench.engine.update import Update, Updates
from lossbench.optimizers import fresh_state
from lossbench.packs import Pack

Values = dict[str, Tensor]
"""[K] by column."""


def train(
    pack: Pack,
    splits_by_seed: Mapping[int, Splits],
    *,
    device: torch.device,
    padding: int,
    flush: Callable[[int, Snapshot], None],
    saved: Saved | None = None,
    noted: Mapping[str, str] | None = None,
) -> dict[str, pa.Table]:
    """Train the runs of a pack together.

    Args:
        pack: Runs of one structure, equal losses side by side.
        splits_by_seed: Data by seed, corruption applied.
        device: Where to train.
        padding: Least number of members; 2 on the CPU, one fixed number per sweep on CUDA.
        flush: Called after each update but the last with the number of updates done and what takes
            a snapshot of the state there. What it raises ends the training.
        saved: Where to go on, instead of from the start; same pack, data, versions and threads.
        noted: Further facts for the column `environment`.

    Returns:
        The tables runs, steps, layers and evals. Members that diverge or fail are frozen, the
        others are not touched by it, bit for bit.

    Raises:
        ValueError: The batch is larger than the training split.
    """
    start = time.monotonic()
    members = gathered(pack, splits_by_seed, device=device, padding=padding)
    run = members.runs[0]
    strategy = strategy_of(members)
    noted = {**(noted or {}), "strategy": strategy.name}
    recorder = Recorder(pack, members, device=device, noted=noted)
    updates = Updates(members, strategy, recorder)
    instruments = Instruments(members, strategy.forward)
    parameters, buffers = strategy.arranged(members.parameters), members.buffers
    state = fresh_state(run.optimizer.fn, joined(parameters, like=parameters))
    first = 0
    if saved is not None:
        found = _restored(saved, recorder, device)
        parameters = strategy.arranged(found["parameters"])
        state, first = found["optimizer"], found["step"]
        buffers |= found["buffers"]
        start -= found["seconds"]
    after = strategy.arranged(parameters)
    for step in range(first, run.steps):
        if step % run.eval_every == 0:
            recorder.evals(
                step, evaluated(members, strategy.forward, parameters, buffers, is_last=False)
            )
        is_logged, names = step % run.log_every == 0, instruments.due(step)
        is_kept = is_logged or bool(names)
        update = updates(step, parameters, buffers, state, after, is_kept=is_kept)
        if is_logged:
            recorder.steps(step, *_probed(members, update))
        if names:
            recorder.instruments(step, instruments.measured(names, update))
        parameters, after = after, parameters
        if step + 1 < run.steps:
            seconds = time.monotonic() - start
            kept = {"parameters": dict(parameters), "buffers": updates.moving(buffers)}
            kept |= {"optimizer": state, "step": step + 1, "seconds": seconds}
            flush(step + 1, partial(_saved, kept, recorder))
    recorder.evals(
        run.steps, evaluated(members, strategy.forward, parameters, buffers, is_last=True)
    )
    return recorder.tables(seconds=time.monotonic() - start)


def _probed(members: Members, update: Update) -> tuple[Values, dict[str, Values]]:
    """What every logged step says of an update: values [K] by column, and by layer and column."""
    moved = {"before": update.parameters, "after": update.after}
    values = probes.steps(
        loss=update.loss,
        prediction=members.predict(update.output),
        target=update.target,
        output_gradient=update.driving,
        gradient=update.gradient,
        is_probability=members.is_probability,
        **moved,
    )
    return values, probes.layers(gradient=update.gradient, **moved)


def _saved(kept: Mapping[str, Any], recorder: Recorder) -> Saved:
    content = encoded({**kept, "recorder": recorder.state})
    return Saved(kept["step"], content, (encoded(recorder.part()),))


def _restored(saved: Saved, recorder: Recorder, device: torch.device) -> dict[str, Any]:
    """Parameters, buffers that move, optimizer state, updates done and seconds spent."""
    found = decoded(saved.checkpoint, device=device)
    recorder.restore(found["recorder"], [decoded(part, device=device) for part in saved.parts])
    return found
