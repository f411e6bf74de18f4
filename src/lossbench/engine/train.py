"""THE training loop. One pack, any module, any device; nothing crosses members."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from lossbench import probes
from lossbench.config import Run
from lossbench.data.splits import Splits
from lossbench.engine.checkpoint import Saved, Snapshot, decoded, encoded
from lossbench.engine.evaluate import evaluated
from lossbench.engine.members import Members, check_loss, gathered, guarded
from lossbench.engine.moments import Instruments, Update
from lossbench.engine.recorder import Recorder
from lossbench.engine.signals import SIGNALS, reference_slope
from lossbench.engine.strategies import Strategy, joined, strategy_of
from lossbench.optimizers import (
    OPTIMIZERS,
    SCHEDULES,
    Hyperparameters,
    State,
    fresh_state,
    scheduled,
)
from lossbench.packs import Pack

Span = tuple[slice, Run]


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
    schedule = SCHEDULES[run.schedule.fn]
    update = _Update(run, strategy.at_once(members.batch(0)[0]))
    parameters, buffers = strategy.arranged(members.parameters), members.buffers
    state = fresh_state(run.optimizer.fn, joined(parameters, like=parameters))
    recorder = Recorder(
        pack, members, device=device, noted={**(noted or {}), "strategy": strategy.name}
    )
    per_member_loss, drive = PerMemberLoss(members, recorder), SIGNALS[run.signal]
    instruments = Instruments(members, strategy.forward)
    moving = buffers if is_moving(strategy, members) else {}
    first = 0
    if saved is not None:
        found = _restored(saved, recorder, device)
        parameters = strategy.arranged(found["parameters"])
        state, first = found["optimizer"], found["step"]
        buffers |= (moving := found["buffers"])
        start -= found["seconds"]
    after = strategy.arranged(parameters)
    for step in range(first, run.steps):
        if step % run.eval_every == 0:
            recorder.evals(
                step, evaluated(members, strategy.forward, parameters, buffers, is_last=False)
            )
        inputs, target = members.batch(step)
        unmoved = {name: value.clone() for name, value in moving.items()}
        output = strategy.output(parameters, buffers, inputs)  # changes what moves in its place
        loss, slope = per_member_loss(output, target, step)
        reference = slope
        if run.signal != "own":
            reference = reference_slope(run.row.task, output, target)
        output_gradient, gradient = drive(slope, reference, strategy.gradient)
        hyper = scheduled(members.hyper, schedule(step, run.steps, **run.schedule.params))
        recorder.check(step, loss)
        update(parameters, gradient, state, after, step=step, hyper=hyper, alive=recorder.alive)
        if step % run.log_every == 0:
            recorder.steps(
                step,
                probes.steps(
                    loss=loss,
                    prediction=members.predict(output),
                    target=target,
                    output_gradient=output_gradient,
                    gradient=gradient,
                    before=parameters,
                    after=after,
                    is_probability=members.is_probability,
                ),
                probes.layers(gradient=gradient, before=parameters, after=after),
            )
        if names := instruments.due(step):
            now = (parameters, after, {**buffers, **unmoved}, inputs, target, output, loss)
            update_now = Update(step, *now, slope, gradient)
            recorder.instruments(step, instruments.measured(names, update_now))
        parameters, after = after, parameters
        for name, value in moving.items():
            _living(recorder.alive, value, unmoved[name], out=value)
        if step + 1 < run.steps:
            seconds = time.monotonic() - start
            kept = {"parameters": dict(parameters), "buffers": moving, "optimizer": state}
            kept |= {"step": step + 1, "seconds": seconds}
            flush(step + 1, partial(_saved, kept, recorder))
    recorder.evals(
        run.steps, evaluated(members, strategy.forward, parameters, buffers, is_last=True)
    )
    return recorder.tables(seconds=time.monotonic() - start)


class _Update:
    """The optimizer over the members, some at once; those that are not alive stay as they are."""

    def __init__(self, run: Run, at_once: Sequence[slice]) -> None:
        self.optimizer = partial(OPTIMIZERS[run.optimizer.fn], **run.optimizer.params)
        self.at_once = at_once

    def __call__(
        self,
        parameters: Mapping[str, Tensor],
        gradient: Mapping[str, Tensor],
        state: State,
        after: Mapping[str, Tensor],
        *,
        step: int,
        hyper: Hyperparameters,
        alive: Tensor,
    ) -> None:
        """Write the next parameters into `after`; everything by name, [K, ...].

        Args:
            parameters: Of this step.
            gradient: Of the mean loss in them.
            state: Of the optimizer, over `joined` parameters; changed in place.
            after: Where to write.
            step: Updates done.
            hyper: Of all members.
            alive: [K].
        """
        old = joined(parameters, like=parameters)
        slope, new = joined(gradient, like=parameters), joined(after, like=parameters)
        for own in self.at_once:
            before = _some(old, own)
            found = self.optimizer(
                before,
                _some(slope, own),
                {buffer: _some(values, own) for buffer, values in state.items()},
                step=step,
                hyper=hyper.some(own),
            )
            for name, value in found.items():
                _living(alive[own], value, before[name], out=new[name][own])


def _some(tensors: Mapping[str, Tensor], own: slice) -> dict[str, Tensor]:
    return {name: value[own] for name, value in tensors.items()}


def _living(alive: Tensor, new: Tensor, old: Tensor, *, out: Tensor) -> None:
    """New values [K, ...] of members that are alive, old ones of the others."""
    torch.where(alive.view(-1, *[1] * (new.dim() - 1)), new, old, out=out)


def _saved(kept: Mapping[str, Any], recorder: Recorder) -> Saved:
    content = encoded({**kept, "recorder": recorder.state})
    return Saved(kept["step"], content, (encoded(recorder.part()),))


def _restored(saved: Saved, recorder: Recorder, device: torch.device) -> dict[str, Any]:
    """Parameters, buffers that move, optimizer state, updates done and seconds spent."""
    found = decoded(saved.checkpoint, device=device)
    recorder.restore(found["recorder"], [decoded(part, device=device) for part in saved.parts])
    return found


def is_moving(strategy: Strategy, members: Members) -> bool:
    """Whether training changes the model's buffers: running statistics, counts of batches."""
    buffers = {name: value.clone() for name, value in members.buffers.items()}
    with torch.no_grad():
        strategy.forward(members.parameters, buffers, members.batch(0)[0])
    return any(not torch.equal(value, members.buffers[name]) for name, value in buffers.items())


class PerMemberLoss:
    """Loss and output gradient of every member; a loss that raises fails its member only."""

    def __init__(self, members: Members, recorder: Recorder) -> None:
        self.members = members
        self.spans = list(members.spans)
        self.recorder = recorder

    def __call__(self, output: Tensor, target: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Loss [K, B] and d loss / d output [K, B, C]; NaN and 0 for failed members."""
        loss = output.new_full(output.shape[:-1], torch.nan)
        slope = torch.zeros_like(output)
        pending, self.spans = [self.spans] if self.spans else [], []
        while pending:
            spans = pending.pop(0)
            try:
                found = self._of(spans, output, target, step)
            except (Exception, SystemExit) as error:
                pending[:0] = self._parts(spans, step, error)
                continue
            for (span, _), (values, slopes) in zip(spans, found, strict=True):
                loss[span], slope[span] = values, slopes
            self.spans += spans
        return loss, slope

    def _of(
        self, spans: Sequence[Span], output: Tensor, target: Tensor, step: int
    ) -> list[tuple[Tensor, Tensor]]:
        """Loss [k, B] and slope [k, B, W] of each span, all through one backward pass."""
        leaves, losses = [], []
        for span, run in spans:
            leaf = guarded(output, span).requires_grad_()
            context = self.members.context(span, step) if run.row.needs_context else None
            values = run.row.values(leaf, guarded(target, span), run.loss.params, context)
            check_loss(values, leaf, run.loss.name)
            leaves, losses = [*leaves, leaf], [*losses, values]
        slopes = torch.autograd.grad(losses, leaves, [torch.ones_like(values) for values in losses])
        return [
            (values.detach()[: span.stop - span.start], slope[: span.stop - span.start])
            for (span, _), values, slope in zip(spans, losses, slopes, strict=True)
        ]

    def _parts(self, spans: list[Span], step: int, error: BaseException) -> list[list[Span]]:
        """Single spans in the place of several, single members in that of one; then it fails."""
        if len(spans) > 1:
            return [[one] for one in spans]
        span, run = spans[0]
        if span.stop - span.start > 1:
            return [[(slice(place, place + 1), run)] for place in range(span.start, span.stop)]
        self.recorder.fail(span.start, step, f"{type(error).__name__}: {error}")
        return []
