"""One update of all members: batch, outputs, losses, gradients, optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lossbench.engine.losses import TrainingLosses, reference_gradient
from lossbench.engine.members import Members
from lossbench.engine.rows import joined
from lossbench.engine.signals import SIGNALS
from lossbench.engine.state import State
from lossbench.engine.strategy import Advance, Logged, Named, Strategy
from lossbench.measures import probes
from lossbench.optimizers import OPTIMIZERS, SCHEDULES, Hyperparameters, fresh_state, scheduled


@dataclass(frozen=True)
class Update:
    """The tensors of one update of K members.

    Attributes:
        target: Of the batch, [K, B, C].
        output: [K, B, W].
        loss: [K, B]; NaN for members that failed.
        output_gradient: Of each member's loss, [K, B, W]; 0 for members that failed.
        signal: What went back through the model in its place, [K, B, W].
        gradient: Of the mean of the signal, by name, [K, ...]; empty where nobody looks.
        parameters, buffers: Before the update, by name, [K, ...]; the same.
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
    """The updates of a pack's members, one by one, which change a state in place.

    Args:
        members: The pack.
        strategy: How they compute, as many of them together as it likes.
        report: Called with the place of a member whose loss raised, and why.

    Attributes:
        factors: What the schedule makes of the learning rate, [T].
        parts: Members, or groups of them, that are updated one after the other.
    """

    def __init__(
        self, members: Members, strategy: Strategy, report: Callable[[int, str], None]
    ) -> None:
        run, rows = members.runs[0], members.batches.rows.shape[-1]
        self._members, self._strategy = members, strategy
        self.parts = strategy.parts(members)
        self._losses = [TrainingLosses(members, part, report) for part in self.parts]
        like = members.hyper.lr
        self._chunks = [strategy.chunks(len(members.runs[part]), rows, like) for part in self.parts]
        self._signal = SIGNALS[run.signal]
        self._optimizer = partial(OPTIMIZERS[run.optimizer.fn], **run.optimizer.params)
        schedule = partial(SCHEDULES[run.schedule.fn], **run.schedule.params)
        self.factors = like.new_tensor([schedule(step, run.steps) for step in range(run.steps)])
        self._before = strategy.arranged(members.parameters)
        self._memory = self._new_memory()

    @property
    def name(self) -> str:
        """None: this is the plain way."""
        return ""

    @property
    def most(self) -> int:
        """One: the host is there anyway."""
        return 1

    def start(self) -> State:
        """The state before the first update."""
        members = self._members
        parameters = self._strategy.arranged(members.parameters)
        count, device = len(members.runs), members.device
        name, joint = members.runs[0].optimizer.fn, joined(parameters, like=parameters)
        return State(
            parameters=parameters,
            buffers={name: value.clone() for name, value in members.buffers.items()},
            optimizer=fresh_state(name, joint),
            alive=torch.ones(count, dtype=torch.bool, device=device),
            stop_step=torch.zeros(count, dtype=torch.int64, device=device),
            clock=torch.zeros(1, dtype=torch.int64, device=device),
        )

    def advance(self, state: State, count: int, *, may_read: bool = True) -> None:
        """Make so many updates of a state; members that are not alive stay as they are.

        Args:
            state: Changed in place.
            count: Of updates.
            may_read: Whether values may be read from tensors, for which the host waits; not where
                the updates are recorded.
        """
        for _ in range(count):
            self._update(state, self._memory, has_gradient=False, may_read=may_read)

    def logged(self, state: State, *, may_read: bool = True) -> Logged:
        """Make one update, and say of it what every logged step says. Args: as `advance`."""
        copied = joined(self._before, like=self._before)
        for name, value in joined(state.parameters, like=state.parameters).items():
            copied[name].copy_(value)
        return self.probed(self._shown(state, self._before, self._memory, may_read), state)

    def with_tensors(self, state: State) -> Update:
        """Make one update of a state in place, and return the tensors it was made of."""
        before = self._strategy.arranged(state.parameters)
        return self._shown(state, before, self._new_memory(), may_read=True)

    def probed(self, update: Update, state: State) -> Logged:
        """What every logged step says of an update, made of the state after it."""
        moved = {"before": update.parameters, "after": state.parameters}
        values = probes.steps(
            loss=update.loss,
            prediction=self._members.predict(update.output),
            target=update.target,
            output_gradient=update.signal,
            gradient=update.gradient,
            is_probability=self._members.is_probability,
            **moved,
        )
        layers = {"": values, **probes.layers(gradient=update.gradient, **moved)}
        columns = [(layer, name) for layer, row in layers.items() for name in row]
        return Logged(tuple(columns), torch.stack([layers[layer][name] for layer, name in columns]))

    def _new_memory(self) -> list[Any]:
        rows = self._members.batches.rows.shape[-1]
        return [self._strategy.memory(self._of(self._before, part), rows) for part in self.parts]

    def _shown(self, state: State, before: Named, memory: list[Any], may_read: bool) -> Update:
        """An update, with parameters as they were `before`."""
        return replace(
            self._update(state, memory, has_gradient=True, may_read=may_read), parameters=before
        )

    def _update(
        self, state: State, memory: list[Any], *, has_gradient: bool, may_read: bool
    ) -> Update:
        hyper = scheduled(self._members.hyper, self.factors.index_select(0, state.clock))
        buffers = {name: value.clone() for name, value in state.buffers.items()}
        updates = []
        for part, losses, chunks, room in zip(
            self.parts, self._losses, self._chunks, memory, strict=True
        ):
            update = self._update_part(state, part, losses, chunks, room, hyper, may_read)
            updates.append(update if has_gradient else replace(update, gradient={}))
        update = _concatenated(updates)
        state.freeze(update.loss.isfinite().all(-1))
        torch.where(state.alive, state.clock + 1, state.stop_step, out=state.stop_step)
        for name, value in buffers.items():
            keep_frozen(state.alive, state.buffers[name], value, out=state.buffers[name])
        state.clock.add_(1)
        return replace(update, buffers=buffers)

    def _update_part(
        self,
        state: State,
        part: slice,
        losses: TrainingLosses,
        chunks: Sequence[slice],
        memory: Any,
        hyper: Hyperparameters,
        may_read: bool,
    ) -> Update:
        """The update of some members, from their batch to their next parameters."""
        parameters, buffers = self._of(state.parameters, part), self._of(state.buffers, part)
        batch, target = self._members.batches.at(state.clock, part)
        output, gradient_of = self._strategy.trained(parameters, buffers, batch, memory)
        loss, output_gradient = losses(output, target, state.clock, may_read=may_read)
        reference = output_gradient
        if self._members.runs[0].signal != "own":
            reference = reference_gradient(self._members, output, target)
        signal, gradient = self._signal(output_gradient, reference, gradient_of)
        alive = state.alive[part] & loss.isfinite().all(-1)
        # Only the CPU can look without waiting.
        is_everyone = may_read and alive.device.type == "cpu" and bool(alive.all())
        values, gradients = joined(parameters, like=parameters), joined(gradient, like=parameters)
        optimizer = {name: self._of(each, part) for name, each in state.optimizer.items()}
        step = state.clock[0].double()
        for chunk in chunks:
            before = _slice(values, chunk)
            after = self._optimizer(
                before,
                _slice(gradients, chunk),
                {name: _slice(each, chunk) for name, each in optimizer.items()},
                step=step,
                hyper=hyper.some(slice(part.start + chunk.start, part.start + chunk.stop)),
                out=before if is_everyone else None,
            )
            if not is_everyone:
                for name, new in after.items():
                    keep_frozen(alive[chunk], new, before[name], out=before[name])
        return Update(target, output, loss, output_gradient, signal, gradient, {}, {})

    def _of(self, tensors: Named, part: slice) -> Named:
        """Those of a part; unchanged, in the strategy's memory layout, where it is everyone."""
        return tensors if len(self.parts) == 1 else _slice(tensors, part)


def _concatenated(updates: Sequence[Update]) -> Update:
    """Updates of neighbours as that of all of them."""
    if len(updates) == 1:
        return updates[0]
    names = ("target", "output", "loss", "output_gradient", "signal")
    gradients = [update.gradient for update in updates]
    return Update(
        **{name: torch.cat([getattr(update, name) for update in updates]) for name in names},
        gradient={name: torch.cat([one[name] for one in gradients]) for name in gradients[0]},
        parameters={},
        buffers={},
    )


def _slice(tensors: Named, members: slice) -> dict[str, Tensor]:
    return {name: value[members] for name, value in tensors.items()}


def keep_frozen(alive: Tensor, new: Tensor, old: Tensor, *, out: Tensor) -> None:
    """New values [K, ...] of members that are alive, old ones of the others."""
    torch.where(alive.view(-1, *[1] * (new.dim() - 1)), new, old, out=out)
