"""One update of all members: batch, outputs, losses, gradients, optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from lossbench.engine import signals
from lossbench.engine.members import Members
from lossbench.engine.memory_layout import joined
from lossbench.engine.state import State
from lossbench.engine.strategy import Advance, Logged, Named, Strategy
from lossbench.engine.training_losses import TrainingLosses, reference_gradient
from lossbench.measures import probes
from lossbench.models import hidden_matrices
from lossbench.optimizers import (
    BY_MATRIX,
    OPTIMIZERS,
    SCHEDULES,
    Hyperparameters,
    fresh_state,
    scheduled,
)


@dataclass(frozen=True)
class Update:
    """The tensors of one update of K members.

    Attributes:
        target: Targets of the batch, [K, B, C].
        output: [K, B, W].
        loss: [K, B]; NaN for members that failed.
        output_gradient: Output gradient of each member's loss, [K, B, W]; 0 for failed members.
        signal: Output gradient that was propagated back through the model, [K, B, W]; equal to
            `output_gradient` unless the run has another signal.
        gradient: Gradient of the mean of the signal, by name, [K, ...]; empty if no values of the
            update are recorded.
        parameters: Parameters before the update by name, [K, ...]; empty like `gradient`.
        buffers: Buffers before the update by name, [K, ...].
    """

    target: Tensor
    output: Tensor
    loss: Tensor
    output_gradient: Tensor
    signal: Tensor
    gradient: Named
    parameters: Named
    buffers: Named


class Updates(Advance):
    """Updates of a pack's members, made one by one, which change a state in place.

    `report` is called with the position of a member whose loss raised, and the reason.

    Attributes:
        factors: Factors of the schedule on the learning rate, one per step, [steps].
        spans: Slices of members that are updated one slice after the other: one slice with all
            members, or one per member if members are computed one by one.
    """

    name, max_updates = "", 1

    def __init__(
        self, members: Members, strategy: Strategy, report: Callable[[int, str], None]
    ) -> None:
        run, like = members.runs[0], members.hyper.lr
        self._members, self._strategy = members, strategy
        length = 1 if members.is_apart else len(members.runs)
        self.spans = [slice(at, at + length) for at in range(0, len(members.runs), length)]
        self._losses = [TrainingLosses(members, span, report) for span in self.spans]
        self._together = strategy.spans(length, members.batches.size, like)
        self._optimizer = partial(OPTIMIZERS[run.optimizer.fn], **run.optimizer.params)
        self._is_by_matrix = run.optimizer.fn in BY_MATRIX
        if self._is_by_matrix:
            matrices = hidden_matrices(members.model)
            self._optimizer = partial(self._optimizer, matrices=matrices)
        schedule = partial(SCHEDULES[run.schedule.fn], **run.schedule.params)
        self.factors = like.new_tensor([schedule(step, run.steps) for step in range(run.steps)])
        self._before = strategy.arranged(members.parameters)
        self._memory = self._new_memory()

    def start(self) -> State:
        """Make the state before the first update."""
        members = self._members
        parameters = self._strategy.arranged(members.parameters)
        count, device = len(members.runs), members.device
        joint = self._optimized(parameters, like=parameters)
        return State(
            parameters=parameters,
            buffers={name: value.clone() for name, value in members.buffers.items()},
            optimizer=fresh_state(members.runs[0].optimizer.fn, joint),
            alive=torch.ones(count, dtype=torch.bool, device=device),
            stop_step=torch.zeros(count, dtype=torch.int64, device=device),
            clock=torch.zeros(1, dtype=torch.int64, device=device),
        )

    def advance(self, state: State, count: int) -> None:
        """Make `count` updates of a state in place; members that are not alive do not change."""
        for _ in range(count):
            self._update(state, self._memory)

    def logged(self, state: State) -> Logged:
        """Make one update of a state in place, and return the logged values of the update."""
        before = joined(self._before, like=self._before)
        for name, value in joined(state.parameters, like=state.parameters).items():
            before[name].copy_(value)
        return self.probed(self._update(state, self._memory, self._before), state)

    def with_tensors(self, state: State) -> Update:
        """Make one update of a state in place, and return the tensors of the update."""
        before = self._strategy.arranged(state.parameters)
        return self._update(state, self._new_memory(), before)

    def probed(self, update: Update, state: State) -> Logged:
        """Compute the logged values of an update from the state after the update."""
        sums = probes.sums_of_squares(
            gradient=update.gradient,
            before=update.parameters,
            after=state.parameters,
            # Members that train one by one are summed at once: a sum over one rounds differently.
            spans=self._together if len(self.spans) == 1 else [slice(None)],
        )
        steps = probes.steps(
            loss=update.loss,
            prediction=self._members.predict(update.output),
            target=update.target,
            output_gradient=update.signal,
            sums=sums,
            is_probability=self._members.is_probability,
            has_error=self._members.has_error,
        )
        layers = probes.layers(sums)
        rows = [[row[name] for name in probes.LAYER_COLUMNS] for row in layers.values()]
        return Logged(
            torch.stack([steps[name] for name in probes.STEP_COLUMNS]),
            torch.stack([torch.stack(row) for row in rows]),
        )

    def _new_memory(self) -> list[object]:
        rows = self._members.batches.size
        return [self._strategy.memory(self._of(self._before, span), rows) for span in self.spans]

    def _update(
        self, state: State, memory: Sequence[object], before: Named | None = None
    ) -> Update:
        """Make one update of a state in place, with the memory of each span.

        `before` is a copy of the state's parameters; None if no values of the update are recorded,
        and then gradients are not kept.
        """
        hyper = scheduled(self._members.hyper, self.factors.index_select(0, state.clock))
        buffers = {name: value.clone() for name, value in state.buffers.items()}
        updates = []
        for span, losses, memory_of_span in zip(self.spans, self._losses, memory, strict=True):
            update = self._update_span(state, span, losses, memory_of_span, hyper)
            updates.append(replace(update, gradient={}) if before is None else update)
        update = updates[0]
        if len(updates) > 1:
            names = ("target", "output", "loss", "output_gradient", "signal")
            tensors = {name: torch.cat([getattr(each, name) for each in updates]) for name in names}
            gradient = {
                name: torch.cat([each.gradient[name] for each in updates])
                for name in update.gradient
            }
            update = replace(update, **tensors, gradient=gradient)
        state.freeze(update.loss.isfinite().all(-1))
        torch.where(state.alive, state.clock + 1, state.stop_step, out=state.stop_step)
        for name, value in buffers.items():
            keep_frozen(state.alive, state.buffers[name], value, out=state.buffers[name])
        state.clock.add_(1)
        return replace(update, parameters=before or {}, buffers=buffers)

    def _update_span(
        self,
        state: State,
        span: slice,
        losses: TrainingLosses,
        memory: object,
        hyper: Hyperparameters,
    ) -> Update:
        """Update adjacent members: compute outputs, losses and gradients, then new parameters."""
        parameters, buffers = self._of(state.parameters, span), self._of(state.buffers, span)
        batch, target = self._members.batches.at(state.clock, span)
        output, gradient_of = self._strategy.trained(parameters, buffers, batch, memory)
        loss, output_gradient = losses(output, target, state.clock)
        run = self._members.runs[0]
        if run.signal == "own":
            signal, gradient = output_gradient, gradient_of(output_gradient)
        else:
            reference = reference_gradient(self._members, output, target)
            signal, gradient = signals.CHANGED[run.signal](output_gradient, reference, gradient_of)
        alive = state.alive[span] & loss.isfinite().all(-1)
        lives = alive_on_cpu(alive)
        values = self._optimized(parameters, like=parameters)
        gradients = self._optimized(gradient, like=parameters)
        optimizer = {name: self._of(each, span) for name, each in state.optimizer.items()}
        step = state.clock[0].double()
        for members in self._together:
            is_everyone = lives is not None and all(lives[members])
            before = _slice(values, members)
            after = self._optimizer(
                before,
                _slice(gradients, members),
                {name: _slice(each, members) for name, each in optimizer.items()},
                step=step,
                hyper=hyper.subset(slice(span.start + members.start, span.start + members.stop)),
                out=before if is_everyone else None,
            )
            if not is_everyone:
                for name, new in after.items():
                    keep_frozen(alive[members], new, before[name], out=before[name])
        return Update(target, output, loss, output_gradient, signal, gradient, {}, {})

    def _optimized(self, tensors: Named, *, like: Named) -> dict[str, Tensor]:
        """Prepare tensors for the optimizer: `joined`, unless it needs the shapes of matrices."""
        return dict(tensors) if self._is_by_matrix else joined(tensors, like=like)

    def _of(self, tensors: Named, span: slice) -> Named:
        """Rows of `span`; the unchanged tensors if there is one span with all members."""
        return tensors if len(self.spans) == 1 else _slice(tensors, span)


def _slice(tensors: Named, members: slice) -> dict[str, Tensor]:
    return {name: value[members] for name, value in tensors.items()}


def alive_on_cpu(alive: Tensor) -> list[bool] | None:
    """Flags [k] of members that are alive; None on a GPU, where a read would synchronise."""
    return alive.tolist() if alive.device.type == "cpu" else None


def keep_frozen(alive: Tensor, new: Tensor, old: Tensor, *, out: Tensor) -> None:
    """Write new values [K, ...] of members that are alive to `out`, and old values of others."""
    torch.where(alive.view(-1, *[1] * (new.dim() - 1)), new, old, out=out)
