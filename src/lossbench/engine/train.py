"""The training loop for one pack, with any module and device; members do not affect each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import pyarrow as pa

from lossbench.data.splits import Splits
from lossbench.engine.evaluate import Evaluation, evaluate, evaluate_trained
from lossbench.engine.machine import Machine
from lossbench.engine.members import assemble
from lossbench.engine.moments import Instruments
from lossbench.engine.recorder import Recorder
from lossbench.engine.runtime import arithmetic, keep_freed_memory
from lossbench.engine.state import Saved, Snapshot, State, decoded, encoded
from lossbench.engine.strategies import advance_of, strategy_of
from lossbench.engine.update import Updates
from lossbench.question.packs import Pack


class OtherStart(Exception):
    """Error for a checkpoint that was made with other data, initial parameters or batches."""


def train(
    pack: Pack,
    splits_by_seed: Mapping[int, Splits],
    machine: Machine,
    *,
    flush: Callable[[int, Snapshot], None] = lambda step, snapshot: None,
    saved: Saved | None = None,
    environment: Mapping[str, str] | None = None,
    finished: Callable[[State], None] = lambda state: None,
) -> dict[str, pa.Table]:
    """Train the runs of a pack together.

    Args:
        pack: Runs of one structure, with equal losses adjacent.
        splits_by_seed: Data by seed, after corruption.
        machine: The process that trains the runs.
        flush: Function that is called after updates (on the CPU after every update except the last)
            with the number of updates done and a function that takes a snapshot of the current
            state. An exception raised by `flush` ends the training.
        saved: Snapshot from which training goes on, of the same pack, data, versions and number of
            threads; None to start at step 0.
        environment: Further fields for the column `environment`.
        finished: Function that is called with the state after the last update.

    Returns:
        The tables runs, steps, layers, evals and examples. Members that diverge or fail are frozen,
        and results of the other members stay bitwise the same.

    Raises:
        ValueError: The batch is larger than the training split.
        OtherStart: The snapshot was made with other data, parameters or batches.
    """
    keep_freed_memory()
    with arithmetic(machine.device, pack.runs[0].precision):
        training = _Training(pack, splits_by_seed, machine)
        if saved is not None:
            training.restore(saved)
        training.run(flush)
        finished(training.state)
        return training.tables(environment or {})


class _Training:
    """A pack in training, with members, state and records."""

    def __init__(self, pack: Pack, splits_by_seed: Mapping[int, Splits], machine: Machine) -> None:
        self._start, self._device = time.monotonic(), machine.device
        self._members = assemble(pack, splits_by_seed, machine)
        self._recorder = Recorder(pack, self._members, device=machine.device)
        self._strategy = strategy_of(self._members)
        self._updates = Updates(self._members, self._strategy, self._recorder.fail)
        self._advance = advance_of(self._updates, machine)
        self._instruments = Instruments(self._members, self._strategy.forward)
        self.state = self._updates.start()

    def run(self, flush: Callable[[int, Snapshot], None]) -> None:
        """Make all remaining updates, and log, measure and evaluate at the steps that are due."""
        run, state, recorder = self._members.runs[0], self.state, self._recorder
        step, forward = int(state.clock), self._strategy.forward
        while step < run.steps:
            if step % run.eval_every == 0:
                self._record(step, evaluate(self._members, forward, state))
            instruments, stop = self._instruments.due(step), step + 1
            if instruments:
                update = self._updates.with_tensors(state)
                if step % run.log_every == 0:
                    recorder.steps(step, self._updates.probed(update, state))
                values = self._instruments.measured(instruments, step, update, state)
                recorder.instruments(step, values)
            elif step % run.log_every == 0:
                recorder.steps(step, self._advance.logged(state))
            else:
                # As far as the next step at which any value is logged, measured or evaluated.
                last = min(step + self._advance.max_updates, run.steps)
                while stop < last and stop % run.log_every and stop % run.eval_every:
                    if self._instruments.due(stop):
                        break
                    stop += 1
                self._advance.advance(state, stop - step)
            step = stop
            if step < run.steps:
                flush(step, self.snapshot)
        self._record(run.steps, evaluate_trained(self._members, forward, state))
        assert int(state.clock) == run.steps  # also waits until the device has finished

    def _record(self, step: int, evaluation: Evaluation) -> None:
        """Record all metrics, and freeze members whose outputs are not finite."""
        self.state.freeze(evaluation.is_finite)
        self._recorder.evals(step, evaluation.values)
        self._recorder.examples(evaluation.examples)

    def snapshot(self) -> Saved:
        """Take a snapshot of the state, with the records since the previous snapshot."""
        content = {
            "state": self.state.values,
            "failures": self._recorder.failures,
            "seconds": time.monotonic() - self._start,
            "fingerprints": self._members.fingerprints,
        }
        part = encoded(self._recorder.part())
        return Saved(int(self.state.clock), encoded(content), (part,))

    def restore(self, saved: Saved) -> None:
        """Set the state and the records from a snapshot.

        Raises:
            OtherStart: The snapshot was made with other data, parameters or batches.
        """
        content = decoded(saved.checkpoint, device=self._device)
        refuse_other_start(content["fingerprints"], self._members.fingerprints)
        self.state.write(content["state"])
        self._start -= content["seconds"]
        parts = [decoded(part, device=self._device) for part in saved.parts]
        self._recorder.restore(content["failures"], parts)

    def tables(self, environment: Mapping[str, str]) -> dict[str, pa.Table]:
        """Make the five tables of the pack."""
        names = " ".join(name for name in (self._strategy.name, self._advance.name) if name)
        seconds = time.monotonic() - self._start
        environment = {**environment, "strategy": names}
        return self._recorder.tables(self.state, seconds=seconds, environment=environment)


def refuse_other_start(
    saved: Mapping[int, Mapping[str, str]], now: Mapping[int, Mapping[str, str]]
) -> None:
    """Refuse a checkpoint whose fingerprints differ from the current fingerprints of any seed.

    Raises:
        OtherStart: A fingerprint differs; the message names the fingerprint and the seed.
    """
    for seed, fingerprints in now.items():
        for name, sha in fingerprints.items():
            if saved.get(seed, {}).get(name) != sha:
                raise OtherStart(f"{name} of seed {seed}")
