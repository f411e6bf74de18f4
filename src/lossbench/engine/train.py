"""THE training loop. One pack, any module, any device; nothing crosses members."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import torch

from lossbench.data.splits import Splits
from lossbench.engine.arithmetic import arithmetic
from lossbench.engine.bayes import BayesPoints
from lossbench.engine.evaluate import evaluate
from lossbench.engine.members import assemble
from lossbench.engine.memory import keep_freed_memory
from lossbench.engine.moments import Instruments
from lossbench.engine.recorder import Recorder
from lossbench.engine.state import Saved, Snapshot, State, decoded, encoded
from lossbench.engine.strategies import advance_of, strategy_of
from lossbench.engine.strategies.graph import Captures
from lossbench.engine.update import Updates
from lossbench.question.packs import Pack


class OtherStart(Exception):
    """A checkpoint belongs to other data, initial parameters or batches than there are now."""


@dataclass(frozen=True)
class WorkerCache:
    """Results that the packs of one process share, so that each is worked out once.

    Attributes:
        bayes_points: Solutions of `BayesPoints`, by loss and posterior.
        captures: State of graph capture.
    """

    bayes_points: BayesPoints = field(default_factory=BayesPoints)
    captures: Captures = field(default_factory=Captures)

    def __reduce__(self) -> tuple[type[WorkerCache], tuple[()]]:
        """A pickle that is empty: another process works out everything itself."""
        return WorkerCache, ()


def train(
    pack: Pack,
    splits_by_seed: Mapping[int, Splits],
    *,
    device: torch.device,
    padding: int,
    flush: Callable[[int, Snapshot], None],
    saved: Saved | None = None,
    facts: Mapping[str, str] | None = None,
    strategies: Sequence[str] = (),
    cache: WorkerCache | None = None,
    finished: Callable[[State], None] = lambda state: None,
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
        facts: Further ones for the column `environment`.
        strategies: Names of optional strategies to use where they serve, see `strategies.OPTIONS`.
        cache: Results shared with the packs that this process trained before; None for none.
        finished: Called with the state after the last update.

    Returns:
        The tables runs, steps, layers, evals and examples. Members that diverge or fail are
        frozen, the others are not touched by it, bit for bit.

    Raises:
        ValueError: The batch is larger than the training split.
        OtherStart: What is saved began with other data, parameters or batches.
    """
    cache = cache or WorkerCache()
    keep_freed_memory()
    with arithmetic(device, pack.runs[0].precision):
        start = time.monotonic()
        members = assemble(
            pack,
            splits_by_seed,
            device=device,
            padding=padding,
            bayes_points=cache.bayes_points,
        )
        run, recorder = members.runs[0], Recorder(pack, members, device=device)
        strategy = strategy_of(members)
        updates = Updates(members, strategy, recorder.fail)
        advance = advance_of(updates, strategies, device.type, cache.captures)
        instruments = Instruments(members, strategy.forward)
        state = updates.start()
        if saved is not None:
            content = decoded(saved.checkpoint, device=device)
            refuse_other_start(content["fingerprints"], members.fingerprints)
            state.write(content["state"])
            start -= content["seconds"]
            recorder.restore(
                content["failures"], [decoded(part, device=device) for part in saved.parts]
            )

        def record_evaluation(step: int) -> None:
            is_last = step == run.steps
            evaluation = evaluate(members, strategy.forward, state, is_last=is_last)
            state.freeze(evaluation.is_finite)
            recorder.evals(step, evaluation.values)
            recorder.examples(evaluation.examples)

        def snapshot() -> Saved:
            seconds = time.monotonic() - start
            content = {
                "state": state.values,
                "failures": recorder.failures,
                "seconds": seconds,
                "fingerprints": members.fingerprints,
            }
            return Saved(int(state.clock), encoded(content), (encoded(recorder.part()),))

        def is_observed(step: int) -> bool:
            """Whether anything is logged, measured or evaluated at a step."""
            is_regular = step % run.log_every == 0 or step % run.eval_every == 0
            return is_regular or bool(instruments.due(step))

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
                recorder.steps(step, advance.logged(state))
            else:
                most = min(advance.max_updates, run.steps - step)
                while count < most and not is_observed(step + count):
                    count += 1
                advance.advance(state, count)
            step += count
            if step < run.steps:
                flush(step, snapshot)
        record_evaluation(run.steps)
        assert int(state.clock) == run.steps  # which also waits until the device has done them
        finished(state)
        names = " ".join(name for name in (strategy.name, advance.name) if name)
        return recorder.tables(
            state,
            seconds=time.monotonic() - start,
            facts={**(facts or {}), "strategy": names},
        )


def refuse_other_start(
    saved: Mapping[int, Mapping[str, str]], now: Mapping[int, Mapping[str, str]]
) -> None:
    """Refuse to go on from a checkpoint whose fingerprints by seed are not those of now.

    Raises:
        OtherStart: Names what differs and a seed.
    """
    for seed, fingerprints in now.items():
        for name, sha in fingerprints.items():
            if saved.get(seed, {}).get(name) != sha:
                raise OtherStart(f"{name} of seed {seed}")
