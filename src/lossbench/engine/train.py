"""THE training loop. One pack, any module, any device; nothing crosses members."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor, nn

from lossbench import probes
from lossbench.data.splits import Splits
from lossbench.engine.checkpoint import Saved, Snapshot, decoded, encoded
from lossbench.engine.evaluate import evaluated
from lossbench.engine.members import Members, check_loss, gathered, guarded, runs_one_by_one
from lossbench.engine.moments import Instruments, Update
from lossbench.engine.recorder import Recorder
from lossbench.engine.signals import SIGNALS, reference_slope
from lossbench.optimizers import OPTIMIZERS, SCHEDULES, fresh_state, scheduled
from lossbench.packs import Pack

log = logging.getLogger(__name__)

Forward = Callable[[dict[str, Tensor], dict[str, Tensor], Tensor], Tensor]


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
    forward = forward_of(members)
    update, schedule = OPTIMIZERS[run.optimizer.fn], SCHEDULES[run.schedule.fn]
    parameters, buffers = members.parameters, members.buffers
    state = fresh_state(run.optimizer.fn, parameters)
    recorder = Recorder(pack, members, device=device, noted=noted or {})
    per_member_loss, drive = PerMemberLoss(members, recorder), SIGNALS[run.signal]
    instruments = Instruments(members, forward)
    moving = buffers if is_moving(forward, members) else {}
    first = 0
    if saved is not None:
        found = _restored(saved, recorder, device)
        parameters, state, first = found["parameters"], found["optimizer"], found["step"]
        buffers |= (moving := found["buffers"])
        start -= found["seconds"]
    for step in range(first, run.steps):
        if step % run.eval_every == 0:
            recorder.evals(step, evaluated(members, forward, parameters, buffers, is_last=False))
        inputs, target = members.batch(step)
        leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        unmoved = {name: value.clone() for name, value in moving.items()}
        output = forward(leaves, buffers, inputs)  # changes what moves in its place
        loss, slope = per_member_loss(output.detach(), target, step)
        reference = slope
        if run.signal != "own":
            reference = reference_slope(run.row.task, output.detach(), target)
        gradient_of = partial(_gradient, output, leaves, is_kept=run.signal != "own")
        output_gradient, gradient = drive(slope, reference, gradient_of)
        hyper = scheduled(members.hyper, schedule(step, run.steps, **run.schedule.params))
        after = update(parameters, gradient, state, step=step, hyper=hyper, **run.optimizer.params)
        recorder.check(step, loss)
        if step % run.log_every == 0:
            recorder.steps(
                step,
                probes.steps(
                    loss=loss,
                    prediction=members.predict(output.detach()),
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
        parameters = _of_the_living(recorder.alive, after, parameters)
        for name, value in _of_the_living(recorder.alive, moving, unmoved).items():
            moving[name].copy_(value)
        if step + 1 < run.steps:
            seconds = time.monotonic() - start
            kept = {"parameters": parameters, "buffers": moving, "optimizer": state}
            kept |= {"step": step + 1, "seconds": seconds}
            flush(step + 1, partial(_saved, kept, recorder))
    recorder.evals(run.steps, evaluated(members, forward, parameters, buffers, is_last=True))
    return recorder.tables(seconds=time.monotonic() - start)


def _gradient(
    output: Tensor, leaves: Mapping[str, Tensor], slope: Tensor, *, is_kept: bool
) -> dict[str, Tensor]:
    """Of the mean loss in all parameters: the loss is a mean over the batch here, nowhere else."""
    slopes = torch.autograd.grad(
        output, [*leaves.values()], slope / output.shape[1], retain_graph=is_kept
    )
    return dict(zip(leaves, slopes, strict=True))


def _of_the_living(
    alive: Tensor, new: Mapping[str, Tensor], old: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """New values [K, ...] of members that are alive, old ones of the others."""
    return {
        name: torch.where(alive.view(-1, *[1] * (value.dim() - 1)), value, old[name])
        for name, value in new.items()
    }


def _saved(kept: Mapping[str, Any], recorder: Recorder) -> Saved:
    content = encoded({**kept, "recorder": recorder.state})
    return Saved(kept["step"], content, (encoded(recorder.part()),))


def _restored(saved: Saved, recorder: Recorder, device: torch.device) -> dict[str, Any]:
    """Parameters, buffers that move, optimizer state, updates done and seconds spent."""
    found = decoded(saved.checkpoint, device=device)
    recorder.restore(found["recorder"], [decoded(part, device=device) for part in saved.parts])
    return found


def is_moving(forward: Forward, members: Members) -> bool:
    """Whether training changes the model's buffers: running statistics, counts of batches."""
    buffers = {name: value.clone() for name, value in members.buffers.items()}
    with torch.no_grad():
        forward(members.parameters, buffers, members.batch(0)[0])
    return any(not torch.equal(value, members.buffers[name]) for name, value in buffers.items())


def forward_of(members: Members) -> Forward:
    """All members' forward pass: vmap over the stacked state, or a loop where that is better."""
    if runs_one_by_one(members.model, members.places.device):
        return _looped(members.model)
    packed = torch.func.vmap(_call(members.model))
    buffers = {name: value.clone() for name, value in members.buffers.items()}
    try:
        with torch.no_grad():
            packed(members.parameters, buffers, members.batch(0)[0])
    except (RuntimeError, ValueError, TypeError) as error:
        log.warning(
            "%s cannot be vectorised (%s): its members run one by one",
            members.runs[0].model.name,
            str(error).splitlines()[0],
        )
        return _looped(members.model)
    return packed


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
        pending, self.spans = self.spans, []
        while pending:
            span, run = pending.pop(0)
            count = span.stop - span.start
            leaf = guarded(output, span).requires_grad_()
            try:
                context = self.members.context(span, step) if run.row.needs_context else None
                values = run.row.values(leaf, guarded(target, span), run.loss.params, context)
                check_loss(values, leaf, run.loss.name)
                slope[span] = torch.autograd.grad(values.sum(), leaf)[0][:count]
                loss[span] = values.detach()[:count]
            except (Exception, SystemExit) as error:
                if count > 1:
                    singles = range(span.start, span.stop)
                    pending[:0] = [(slice(place, place + 1), run) for place in singles]
                else:
                    self.recorder.fail(span.start, step, f"{type(error).__name__}: {error}")
                continue
            self.spans.append((span, run))
        return loss, slope


def _call(model: nn.Module) -> Forward:
    def call(parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return torch.func.functional_call(model, (parameters, buffers), (inputs,))

    return call


def _looped(model: nn.Module) -> Forward:
    one = _call(model)

    def loop(parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor) -> Tensor:
        # unbind, because the gradient of an index is as large as the whole pack.
        own = zip(*(value.unbind() for value in parameters.values()), strict=True)
        outputs = []
        for place, (values, member) in enumerate(zip(own, inputs, strict=True)):
            moving = {name: value[place] for name, value in buffers.items()}
            outputs.append(one(dict(zip(parameters, values, strict=True)), moving, member))
        return torch.stack(outputs)

    return loop
