"""THE training loop. One pack, any module, any device; nothing crosses members."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
import torch

from lossbench.data.splits import Splits
from lossbench.engine.arithmetic import arithmetic
from lossbench.engine.evaluate import evaluate
from lossbench.engine.members import assemble
from lossbench.engine.moments import Instruments
from lossbench.engine.recorder import Recorder
from lossbench.engine.state import Saved, Snapshot, decoded, encoded
from lossbench.engine.strategies import advance_of, strategy_of
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
    strategies: Sequence[str] = (),
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
        strategies: Names of optional strategies to use where they serve, see `strategies.OPTIONS`.

    Returns:
        The tables runs, steps, layers and evals. Members that diverge or fail are frozen, the
        others are not touched by it, bit for bit.

    Raises:
        ValueError: The batch is larger than the training split.
    """
    with arithmetic(device, pack.runs[0].precision):
        start = time.monotonic()
        members = assemble(pack, splits_by_seed, device=device, padding=padding)
        run, recorder = members.runs[0], Recorder(pack, members, device=device)
        strategy = strategy_of(members, strategies)
        updates = Updates(members, strategy, recorder.fail)
        way = advance_of(members, updates, strategies)
        instruments = Instruments(members, strategy.forward)
        state = updates.start()
        if saved is not None:
            content = decoded(saved.checkpoint, device=device)
            state.write(content["state"])
            start -= content["seconds"]
            parts = [decoded(part, device=device) for part in saved.parts]
            recorder.restore(content["failures"], parts)

        def record_evaluation(step: int) -> None:
            is_last = step == run.steps
            evaluation = evaluate(members, strategy.forward, state, is_last=is_last)
            state.freeze(evaluation.is_finite)
            recorder.evals(step, evaluation.values)

        def snapshot() -> Saved:
            seconds = time.monotonic() - start
            content = {"state": state.values, "failures": recorder.failures, "seconds": seconds}
            return Saved(int(state.clock), encoded(content), (encoded(recorder.part()),))

        step = int(state.clock)
        while step < run.steps:
            if step % run.eval_every == 0:
                record_evaluation(step)
            names, count = instruments.due(step), 1
            if names:
                update = updates.with_tensors(state)
                if step % run.log_every == 0:
                    recorder.steps(step, updates.probed(update, state))
                recorder.instruments(step, instruments.measured(names, step, update, state))
            elif step % run.log_every == 0:
                recorder.steps(step, way.logged(state))
            else:
                count = _until_looked_at(run, instruments, step, most=way.most)
                way.advance(state, count)
            step += count
            if step < run.steps:
                flush(step, snapshot)
        record_evaluation(run.steps)
        assert int(state.clock) == run.steps  # which also waits until the device has done them
        trained_by = " ".join(name for name in (strategy.name, way.name) if name)
        facts = {**(noted or {}), "strategy": trained_by}
        return recorder.tables(state, seconds=time.monotonic() - start, noted=facts)


def _until_looked_at(run: Run, instruments: Instruments, step: int, *, most: int) -> int:
    """Updates from a step on, before which nothing is logged, measured or evaluated."""
    stops = range(step + 1, min(step + most, run.steps))
    rhythms = run.log_every, run.eval_every
    for stop in stops:
        if any(stop % every == 0 for every in rhythms) or instruments.due(stop):
            return stop - step
    return stops.stop - step
