"""One update of all members: batch, outputs, losses, gradients, optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lossbench.engine.capture import is_capturing
from lossbench.engine.members import Members, check_loss, guarded
from lossbench.engine.recorder import Recorder
from lossbench.engine.signals import SIGNALS, reference_slope
from lossbench.engine.strategies import Named, Rows, Strategy, joined
from lossbench.optimizers import OPTIMIZERS, SCHEDULES, Hyperparameters, fresh_state, scheduled
from lossbench.runs import Run

if TYPE_CHECKING:
    from lossbench.engine.strategies.kernel import Kernel

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
        parameters, after: Before and after it, by name, [K, ...].
        buffers: Before it, by name, [K, ...].
    """

    parameters: Named
    after: Named
    buffers: Named


class Updates:
    """The state of a pack's members, and their updates, which change it in place.

    Everything an update reads and writes stays where it is in memory, and while it is captured it
    asks the host for nothing: so it can be replayed, see `Course`.

    Args:
        members: The pack.
        strategy: How they compute, as many of them together as it likes.
        recorder: What is told who diverged or failed.

    Attributes:
        parameters: By name, [K, ...], as the strategy has arranged them.
        buffers: By name, [K, ...].
        state: Of the optimizer, over `joined` parameters.
        clock: Updates done, [1].
        factors: What the schedule makes of the learning rate, [T].
    """

    def __init__(self, members: Members, strategy: Strategy, recorder: Recorder) -> None:
        run = members.runs[0]
        self._members, self._strategy, self._recorder = members, strategy, recorder
        self._apart = strategy.apart(members)
        self._losses = [PerMemberLoss(members, recorder, own) for own in self._apart]
        self._drive = SIGNALS[run.signal]
        self._optimizer = partial(OPTIMIZERS[run.optimizer.fn], **run.optimizer.params)
        self._moving = _moving(strategy, members)
        schedule = partial(SCHEDULES[run.schedule.fn], **run.schedule.params)
        factors = [schedule(step, run.steps) for step in range(run.steps)]
        self.factors = members.hyper.lr.new_tensor(factors)
        self.parameters, self.buffers = strategy.arranged(members.parameters), members.buffers
        self._before = strategy.arranged(members.parameters)
        self.state = fresh_state(run.optimizer.fn, joined(self.parameters, like=self.parameters))
        self.clock = members.clock(0)

    @property
    def parts(self) -> int:
        """How many members, or groups of them, are updated one after the other."""
        return len(self._apart)

    @property
    def kept(self) -> dict[str, Any]:
        """What the next update depends on, for a checkpoint; `step` is the number of updates."""
        moving = {name: self.buffers[name] for name in self._moving}
        state = {"parameters": dict(self.parameters), "buffers": moving, "optimizer": self.state}
        return state | {"step": int(self.clock)}

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Go on from what was kept."""
        _write(kept["parameters"], self.parameters)
        _write(kept["buffers"], self.buffers)
        for name, values in self.state.items():
            _write(kept["optimizer"][name], values)
        self.clock.fill_(kept["step"])

    def once(self) -> None:
        """Make one update. Members that are not alive stay as they are."""
        self._made(is_kept=False)

    def shown(self) -> Update:
        """Make one update, and show it; it holds until the next one."""
        _write(
            joined(self.parameters, like=self.parameters), joined(self._before, like=self._before)
        )
        made, still = self._made(is_kept=True)
        return Update(**vars(made), parameters=self._before, after=self.parameters, buffers=still)

    def leap(self, kernel: Kernel, count: int) -> None:
        """Make so many updates in one launch."""
        kernel.advance(self.clock, count, **self._launched())
        self.clock.add_(count)

    def sketched(self, kernel: Kernel) -> dict[str, Tensor]:
        """What a kernel makes of a copy of the state in one update."""
        copies = {name: value.clone() for name, value in self._launched().items()}
        kernel.advance(self.clock, 1, **copies)
        return copies

    def compared(self, theirs: Named, *, most: float) -> float:
        """Make one update, and say how far another state is from it.

        Args:
            theirs: As `sketched`; where it is near enough it becomes the state.
            most: How far it may be.

        Returns:
            Of the members that go on, the largest difference of a parameter, relative to the
            largest step of one, rounding of the parameters apart; infinite where the two disagree
            on who goes on.
        """
        state, recorded = self._launched(), slice(self._members.recorded)
        before = state["row"].clone()
        self.once()
        mine, other, alive = state["row"][recorded], theirs["row"][recorded], state["alive"]
        step = (mine - before[recorded]).abs().nan_to_num(posinf=torch.inf).amax(-1)
        rounding = 8 * torch.finfo(mine.dtype).eps * mine.abs()
        off = torch.where(mine == other, 0.0, ((mine - other).abs() - rounding).clamp_min(0))
        off = torch.where(mine.isfinite() | other.isfinite(), off, 0.0).amax(-1)
        relative = torch.where(off > 0, off / step, 0.0)
        found = float(torch.where(alive[recorded], relative, 0.0).max())
        found = found if alive[recorded].equal(theirs["alive"][recorded]) else math.inf
        if found <= most:
            _write(theirs, state)
        return found

    def _launched(self) -> dict[str, Tensor]:
        """What a kernel reads and writes."""
        assert isinstance(self.parameters, Rows), "a kernel takes parameters as rows"
        recorder = self._recorder
        return {
            "row": self.parameters.row,
            "momentum": self.state["momentum"]["row"],
            "alive": recorder.alive,
            "stop_step": recorder.stop_step,
        }

    def _made(self, *, is_kept: bool) -> tuple[Made, dict[str, Tensor]]:
        """An update's makings, and the buffers before it; the gradient only if it is kept."""
        hyper = scheduled(self._members.hyper, self.factors.index_select(0, self.clock))
        before = {name: self.buffers[name].clone() for name in self._moving}
        made = _together(
            [
                self._part(own, loss, hyper=hyper, is_kept=is_kept)
                for own, loss in zip(self._apart, self._losses, strict=True)
            ]
        )
        self._recorder.check(self.clock, made.loss)
        for name, value in before.items():
            _live(self._recorder.alive, self.buffers[name], value, out=self.buffers[name])
        self.clock.add_(1)
        return made, {**self.buffers, **before}

    def _part(
        self,
        own: slice,
        per_member_loss: PerMemberLoss,
        *,
        hyper: Hyperparameters,
        is_kept: bool,
    ) -> Made:
        """The update of some members, from their batch to their next parameters."""
        parameters, buffers = self._some(self.parameters, own), self._some(self.buffers, own)
        state = {name: self._some(values, own) for name, values in self.state.items()}
        batch, target = self._members.batch(self.clock, own)
        output = self._strategy.output(parameters, buffers, batch)
        loss, slope = per_member_loss(output, target, self.clock)
        run, reference = self._members.runs[0], slope
        if run.signal != "own":
            reference = reference_slope(run.row.task, output, target)
        driving, gradient = self._drive(slope, reference, self._strategy.gradient)
        alive = self._recorder.alive[own] & loss.isfinite().all(-1)
        value, rise = joined(parameters, like=parameters), joined(gradient, like=parameters)
        step, is_everyone = self.clock[0].double(), _is_everyone(alive)
        for few in self._strategy.at_once(len(output), batch.inputs):
            old = _few(value, few)
            kept = {name: _few(values, few) for name, values in state.items()}
            here = slice(own.start + few.start, own.start + few.stop)
            found = self._optimizer(
                old,
                _few(rise, few),
                kept,
                step=step,
                hyper=hyper.some(here),
                out=old if is_everyone else None,
            )
            if not is_everyone:
                for name, new in found.items():
                    _live(alive[few], new, old[name], out=old[name])
        return Made(target, output, loss, slope, driving, gradient if is_kept else {})

    def _some(self, tensors: Named, own: slice) -> Named:
        """Those of some members; as they are, and as they lie, where all compute together."""
        return tensors if len(self._apart) == 1 else _few(tensors, own)


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


def _write(values: Named, into: Named) -> None:
    for name, value in values.items():
        into[name].copy_(value)


def _is_everyone(alive: Tensor) -> bool:
    """Whether all members are known to be alive; only the CPU can look without waiting."""
    return alive.device.type == "cpu" and not is_capturing() and bool(alive.all())


def _live(alive: Tensor, new: Tensor, old: Tensor, *, out: Tensor) -> None:
    """New values [K, ...] of members that are alive, old ones of the others."""
    torch.where(alive.view(-1, *[1] * (new.dim() - 1)), new, old, out=out)


def _moving(strategy: Strategy, members: Members) -> frozenset[str]:
    """Names of the model's buffers where training changes any of them."""
    buffers = {name: value.clone() for name, value in members.buffers.items()}
    if not buffers:
        return frozenset()
    with torch.no_grad():
        strategy.forward(members.parameters, buffers, members.batch(members.clock(0))[0].all)
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

    def __call__(self, output: Tensor, target: Tensor, clock: Tensor) -> tuple[Tensor, Tensor]:
        """Loss [k, B] and d loss / d output [k, B, W]; NaN and 0 for failed members."""
        loss = output.new_full(output.shape[:-1], torch.nan)
        slope = torch.zeros_like(output)
        pending, served = [self.spans] if self.spans else [], []
        while pending:
            spans = pending.pop(0)
            try:
                found = self._of(spans, output, target, clock)
            except (Exception, SystemExit) as error:
                if is_capturing():
                    raise  # what a loss asks of the host says nothing against it
                pending[:0] = self._parts(spans, clock, error)
                continue
            for (span, _), (values, slopes) in zip(spans, found, strict=True):
                here = self._here(span)
                loss[here], slope[here] = values, slopes
            served += spans
        self.spans = served
        return loss, slope

    def _of(
        self, spans: Sequence[Span], output: Tensor, target: Tensor, clock: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Loss [k, B] and slope [k, B, W] of each span, all through one backward pass."""
        leaves, losses = [], []
        for span, run in spans:
            leaf = guarded(output, self._here(span)).requires_grad_()
            context = self.members.context(span, clock) if run.row.needs_context else None
            aim = guarded(target, self._here(span))
            values = run.row.values(leaf, aim, run.loss.params, context)
            check_loss(values, leaf, run.loss.name)
            leaves, losses = [*leaves, leaf], [*losses, values]
        # Not as `grad_outputs`: for them torch imports what takes half a second to import.
        totals = [(values * torch.ones_like(values)).sum() for values in losses]
        slopes = torch.autograd.grad(torch.stack(totals).sum(), leaves)
        return [
            (values.detach()[: span.stop - span.start], slope[: span.stop - span.start])
            for (span, _), values, slope in zip(spans, losses, slopes, strict=True)
        ]

    def _here(self, span: slice) -> slice:
        """A span among its own members."""
        return slice(span.start - self.own.start, span.stop - self.own.start)

    def _parts(self, spans: list[Span], clock: Tensor, error: BaseException) -> list[list[Span]]:
        """Single spans in the place of several, single members in that of one; then it fails."""
        if len(spans) > 1:
            return [[one] for one in spans]
        span, run = spans[0]
        if span.stop - span.start > 1:
            return [[(slice(place, place + 1), run)] for place in range(span.start, span.stop)]
        self.recorder.fail(span.start, int(clock), f"{type(error).__name__}: {error}")
        return []
