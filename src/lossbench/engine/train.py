"""THE training loop. One pack, any module, any device; nothing crosses members."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial

import pyarrow as pa
import torch
from torch import Tensor, nn

from lossbench import probes
from lossbench.data.splits import Splits
from lossbench.engine.checkpoint import Saved, Snapshot, decoded, encoded
from lossbench.engine.evaluate import evaluated
from lossbench.engine.members import Members, check_loss, gathered, guarded
from lossbench.engine.moments import Instruments, Update
from lossbench.engine.recorder import Recorder
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
    per_member_loss = PerMemberLoss(members, recorder)
    instruments = Instruments(members, forward, splits_by_seed)
    first = 0
    if saved is not None:
        parameters, state, first, seconds = _restored(saved, recorder, device)
        start -= seconds
    for step in range(first, run.steps):
        if step % run.eval_every == 0:
            recorder.evals(step, evaluated(members, forward, parameters, buffers, is_last=False))
        inputs, target = members.batch(step)
        leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        output = forward(leaves, buffers, inputs)
        loss, output_gradient = per_member_loss(output.detach(), target, step)
        # d mean loss / d parameters: the loss is a mean over the batch, here and nowhere else.
        slopes = torch.autograd.grad(
            output, list(leaves.values()), output_gradient / run.batch_size
        )
        gradient = dict(zip(leaves, slopes, strict=True))
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
            now = (parameters, after, buffers, inputs, target, output, loss, output_gradient)
            recorder.instruments(step, instruments.measured(names, Update(step, *now, gradient)))
        parameters = {
            name: torch.where(
                recorder.alive.view(-1, *[1] * (value.dim() - 1)), value, parameters[name]
            )
            for name, value in after.items()
        }
        if step + 1 < run.steps:
            seconds = time.monotonic() - start
            flush(step + 1, partial(_saved, step + 1, parameters, state, recorder, seconds))
    recorder.evals(run.steps, evaluated(members, forward, parameters, buffers, is_last=True))
    return recorder.tables(seconds=time.monotonic() - start)


def _saved(
    step: int,
    parameters: dict[str, Tensor],
    state: dict[str, dict[str, Tensor]],
    recorder: Recorder,
    seconds: float,
) -> Saved:
    checkpoint = {"step": step, "parameters": parameters, "optimizer": state, "seconds": seconds}
    content = encoded({**checkpoint, "recorder": recorder.state})
    return Saved(step, content, (encoded(recorder.part()),))


def _restored(
    saved: Saved, recorder: Recorder, device: torch.device
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]], int, float]:
    """Parameters, optimizer state, updates done and seconds spent."""
    found = decoded(saved.checkpoint, device=device)
    recorder.restore(found["recorder"], [decoded(part, device=device) for part in saved.parts])
    return found["parameters"], found["optimizer"], found["step"], found["seconds"]


def forward_of(members: Members) -> Forward:
    """All members' forward pass: vmap over the stacked state, or a loop where that cannot be."""
    packed = torch.func.vmap(_call(members.model))
    try:
        packed(members.parameters, members.buffers, members.batch(0)[0])
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
        return torch.stack(
            [
                one(_member(parameters, place), _member(buffers, place), member)
                for place, member in enumerate(inputs)
            ]
        )

    return loop


def _member(state: dict[str, Tensor], place: int) -> dict[str, Tensor]:
    return {name: value[place] for name, value in state.items()}
