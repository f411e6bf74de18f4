"""One update of all members: batch, outputs, losses, gradients, optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial

import torch
from torch import Tensor

from lossbench.config import Run
from lossbench.engine.members import Members, check_loss, guarded
from lossbench.engine.recorder import Recorder
from lossbench.engine.signals import SIGNALS, reference_slope
from lossbench.engine.strategies import Named, Strategy, joined
from lossbench.optimizers import OPTIMIZERS, SCHEDULES, Hyperparameters, State, scheduled

Span = tuple[slice, Run]


@dataclass(frozen=True)
class Made:
    """What an update of K members was made of.

    Attributes:
        target: Of the batch, [K, B, C].
        output: [K, B, W].
        loss: [K, B]; NaN for failed members.
        output_gradient: Of each member's loss, [K, B, W]; 0 for failed members.
        driving: What went back through the model in its place, [K, B, W].
        gradient: Of the mean of what drove it, by name, [K, ...]; empty unless asked for.
    """

    target: Tensor
    output: Tensor
    loss: Tensor
    output_gradient: Tensor
    driving: Tensor
    gradient: Named


@dataclass(frozen=True)
class Update(Made):
    """One update of K members.

    Attributes:
        step: Updates done before it.
        parameters, after: Before and after it, by name, [K, ...].
        buffers: Before it, by name, [K, ...].
    """

    step: int
    parameters: Named
    after: Named
    buffers: Named


class Updates:
    """Makes the updates of a pack's members, as many of them together as the strategy likes.

    Args:
        members: The pack.
        strategy: How they compute.
        recorder: What is told who diverged or failed.
    """

    def __init__(self, members: Members, strategy: Strategy, recorder: Recorder) -> None:
        run = members.runs[0]
        self._members, self._strategy, self._recorder = members, strategy, recorder
        self._apart = strategy.apart(members)
        self._losses = [PerMemberLoss(members, recorder, own) for own in self._apart]
        self._drive = SIGNALS[run.signal]
        self._schedule = partial(SCHEDULES[run.schedule.fn], **run.schedule.params)
        self._optimizer = partial(OPTIMIZERS[run.optimizer.fn], **run.optimizer.params)
        self._moving = _moving(strategy, members)

    def moving(self, buffers: Named) -> dict[str, Tensor]:
        """Those of the buffers that updates change: running statistics, counts of batches."""
        return {name: value for name, value in buffers.items() if name in self._moving}

    def __call__(
        self,
        step: int,
        parameters: Named,
        buffers: Named,
        state: State,
        after: Named,
        *,
        is_kept: bool,
    ) -> Update:
        """Make one update. Members that are not alive stay as they are.

        Args:
            step: Updates done before it.
            parameters: By name, [K, ...], as the strategy has arranged them.
            buffers: By name, [K, ...]; those that move are changed in place.
            state: Of the optimizer, over `joined` parameters; changed in place.
            after: Where to write the next parameters.
            is_kept: Whether the gradient is asked for.
        """
        run = self._members.runs[0]
        hyper = scheduled(self._members.hyper, self._schedule(step, run.steps))
        before = {name: value.clone() for name, value in self.moving(buffers).items()}
        parts = []
        for own, loss in zip(self._apart, self._losses, strict=True):
            parts.append(
                self._part(
                    step,
                    own,
                    loss,
                    parameters=self._some(parameters, own),
                    buffers=self._some(buffers, own),
                    state={name: dict(self._some(kept, own)) for name, kept in state.items()},
                    after=self._some(after, own),
                    hyper=hyper,
                    is_kept=is_kept,
                )
            )
        made = _together(parts)
        self._recorder.check(step, made.loss)
        for name, value in before.items():
            _living(self._recorder.alive, buffers[name], value, out=buffers[name])
        still = {**buffers, **before}
        return Update(**vars(made), step=step, parameters=parameters, after=after, buffers=still)

    def _some(self, tensors: Named, own: slice) -> Named:
        """Those of some members; as they are, and as they lie, where all compute together."""
        return tensors if len(self._apart) == 1 else _few(tensors, own)

    def _part(
        self,
        step: int,
        own: slice,
        per_member_loss: PerMemberLoss,
        *,
        parameters: Named,
        buffers: Named,
        state: State,
        after: Named,
        hyper: Hyperparameters,
        is_kept: bool,
    ) -> Made:
        """The update of some members, from their batch to their next parameters."""
        inputs, target = self._members.batch(step, own)
        output = self._strategy.output(parameters, buffers, inputs)
        loss, slope = per_member_loss(output, target, step)
        run, reference = self._members.runs[0], slope
        if run.signal != "own":
            reference = reference_slope(run.row.task, output, target)
        driving, gradient = self._drive(slope, reference, self._strategy.gradient)
        alive = self._recorder.alive[own] & loss.isfinite().all(-1)
        old = joined(parameters, like=parameters)
        rise, new = joined(gradient, like=parameters), joined(after, like=parameters)
        for few in self._strategy.at_once(inputs):
            last = _few(old, few)
            kept = {name: _few(values, few) for name, values in state.items()}
            here = slice(own.start + few.start, own.start + few.stop)
            found = self._optimizer(last, _few(rise, few), kept, step=step, hyper=hyper.some(here))
            for name, value in found.items():
                _living(alive[few], value, last[name], out=new[name][few])
        return Made(target, output, loss, slope, driving, gradient if is_kept else {})


def _together(parts: Sequence[Made]) -> Made:
    """What updates of neighbours were made of, as that of all of them."""
    if len(parts) == 1:
        return parts[0]
    names = [field.name for field in fields(Made) if field.name != "gradient"]
    whole = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    gradients = [part.gradient for part in parts]
    named = {name: torch.cat([one[name] for one in gradients]) for name in gradients[0]}
    return Made(**whole, gradient=named)


def _few(tensors: Named, own: slice) -> dict[str, Tensor]:
    return {name: value[own] for name, value in tensors.items()}


def _living(alive: Tensor, new: Tensor, old: Tensor, *, out: Tensor) -> None:
    """New values [K, ...] of members that are alive, old ones of the others."""
    torch.where(alive.view(-1, *[1] * (new.dim() - 1)), new, old, out=out)


def _moving(strategy: Strategy, members: Members) -> frozenset[str]:
    """Names of the model's buffers where training changes any of them."""
    buffers = {name: value.clone() for name, value in members.buffers.items()}
    if not buffers:
        return frozenset()
    with torch.no_grad():
        strategy.forward(members.parameters, buffers, members.batch(0)[0])
    is_moved = any(not value.equal(members.buffers[name]) for name, value in buffers.items())
    return frozenset(buffers) if is_moved else frozenset()


class PerMemberLoss:
    """Loss and output gradient of some members; a loss that raises fails its member only.

    Args:
        members: The pack.
        recorder: What is told who failed.
        own: Places of the members.
    """

    def __init__(self, members: Members, recorder: Recorder, own: slice) -> None:
        self.members, self.recorder, self.own = members, recorder, own
        cut = [
            (slice(max(span.start, own.start), min(span.stop, own.stop)), run)
            for span, run in members.spans
        ]
        self.spans = [(span, run) for span, run in cut if span.start < span.stop]

    def __call__(self, output: Tensor, target: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Loss [k, B] and d loss / d output [k, B, W]; NaN and 0 for failed members."""
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
                here = self._here(span)
                loss[here], slope[here] = values, slopes
            self.spans += spans
        return loss, slope

    def _of(
        self, spans: Sequence[Span], output: Tensor, target: Tensor, step: int
    ) -> list[tuple[Tensor, Tensor]]:
        """Loss [k, B] and slope [k, B, W] of each span, all through one backward pass."""
        leaves, losses = [], []
        for span, run in spans:
            leaf = guarded(output, self._here(span)).requires_grad_()
            context = self.members.context(span, step) if run.row.needs_context else None
            aim = guarded(target, self._here(span))
            values = run.row.values(leaf, aim, run.loss.params, context)
            check_loss(values, leaf, run.loss.name)
            leaves, losses = [*leaves, leaf], [*losses, values]
        slopes = torch.autograd.grad(losses, leaves, [torch.ones_like(values) for values in losses])
        return [
            (values.detach()[: span.stop - span.start], slope[: span.stop - span.start])
            for (span, _), values, slope in zip(spans, losses, slopes, strict=True)
        ]

    def _here(self, span: slice) -> slice:
        """A span among its own members."""
        return slice(span.start - self.own.start, span.stop - self.own.start)

    def _parts(self, spans: list[Span], step: int, error: BaseException) -> list[list[Span]]:
        """Single spans in the place of several, single members in that of one; then it fails."""
        if len(spans) > 1:
            return [[one] for one in spans]
        span, run = spans[0]
        if span.stop - span.start > 1:
            return [[(slice(place, place + 1), run)] for place in range(span.start, span.stop)]
        self.recorder.fail(span.start, step, f"{type(error).__name__}: {error}")
        return []
