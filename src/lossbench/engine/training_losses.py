"""Calls of losses while a pack trains: values, output gradients and means for all members.

During training no other module calls a loss. Adjacent members with the same loss are computed in
one call, with guards behind the members. If a loss raises an error, its members are called in
smaller groups and finally one by one, so that the error affects only members that cause it.

Before the first update, `bayes` calls losses through `claims` to find the prediction of least
expected loss; no update depends on those values.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from lossbench.engine.batches import EVERYONE
from lossbench.engine.members import Members
from lossbench.engine.memory_layout import guarded, guards
from lossbench.losses import LOSSES
from lossbench.losses.spec import NO_PARAMS, Context, Loss
from lossbench.measures.instruments.gradients import CORE
from lossbench.records import REFERENCE
from lossbench.user_code import is_own, restoring_process_state

Result = TypeVar("Result")


@dataclass(frozen=True)
class Group:
    """Adjacent members of a pack with the same loss.

    Attributes:
        start, stop: Ends of the slice of the pack with the members of the group.
        row: Row of the loss.
        params: Parameters of the loss.
        name: Name of the loss in messages.
    """

    start: int
    stop: int
    row: Loss
    params: Mapping[str, object]
    name: str

    @property
    def span(self) -> slice:
        """Slice of the pack with the members of the group."""
        return slice(self.start, self.stop)

    @property
    def count(self) -> int:
        """Number of members."""
        return self.stop - self.start


def groups_of(members: Members, span: slice = EVERYONE) -> list[Group]:
    """Group the members of a span by loss."""
    first, end, _ = span.indices(len(members.runs))
    groups = [
        Group(
            max(alike.start, first), min(alike.stop, end), run.row, run.loss.params, run.loss.name
        )
        for alike, run in members.spans
    ]
    return [group for group in groups if group.start < group.stop]


def together(
    groups: Sequence[Group],
    compute: Callable[[list[Group]], Result],
    fail: Callable[[Group, BaseException], Result],
) -> Iterator[tuple[list[Group], Result]]:
    """Call `compute` with all groups together; if it raises, with each group, then each member.

    `fail` gives a substitute result for a group of one member for which `compute` raised.

    Yields:
        Groups and the result of the groups, in order.
    """
    pending = [[*groups]] if groups else []
    while pending:
        current = pending.pop(0)
        try:
            result = compute(current)
        except Exception as error:
            first, smaller = current[0], current
            if len(current) == 1:
                places = range(first.start, first.stop)
                smaller = [replace(first, start=place, stop=place + 1) for place in places]
            if len(smaller) > 1:
                pending[:0] = [[group] for group in smaller]
                continue
            result = fail(first, error)
        yield current, result


def _values(
    members: Members, group: Group, output: Tensor, target: Tensor, clock: Tensor | None
) -> Tensor:
    """Losses [k + guards, N] of a group, whose outputs and targets have guards.

    `clock` is the step of the batch, [1]; None for examples that are not a batch.
    """
    context = None
    if group.row.needs_context:
        seeds = members.seed_index[group.span]
        behind = guards(output.shape[1], output.device)
        seeds = torch.cat([seeds, seeds[-1:].expand(behind)])
        counts = members.class_counts[seeds][:, None]
        if clock is None:
            context = Context.outside_training(counts)
        else:
            context = Context(class_counts=counts, rows=members.batches.numbers_at(clock)[seeds])
    with restoring_process_state(f"loss {group.name}", group.row.fn):
        values = group.row.values(output, target, group.params, context)
    if not isinstance(values, Tensor):
        raise TypeError(f"loss {group.name} returned {type(values).__name__}: return a tensor")
    if values.shape != output.shape[:-1]:
        raise ValueError(
            f"loss {group.name} returned shape {list(values.shape)} for outputs "
            f"{list(output.shape)}: sum over the last dimension only"
        )
    if values.dtype != output.dtype:
        raise TypeError(
            f"loss {group.name} returned {values.dtype} for {output.dtype}: keep the type"
        )
    return values


def _unguarded(
    members: Members, group: Group, output: Tensor, target: Tensor, clock: Tensor | None
) -> Tensor:
    """Losses [k, N] of a group, see `_values`, from outputs and targets of all members."""
    leaf, aim = guarded(output, group.span), guarded(target, group.span)
    return _values(members, group, leaf, aim, clock)[: group.count]


class TrainingLosses:
    """Computes losses and output gradients of a span of members at each update.

    `report` is called once for a member whose loss raised, with its position and the reason.
    """

    def __init__(self, members: Members, span: slice, report: Callable[[int, str], None]) -> None:
        self._members, self._report = members, report
        self._first = span.indices(len(members.runs))[0]
        self._groups = groups_of(members, span)

    def __call__(self, output: Tensor, target: Tensor, clock: Tensor) -> tuple[Tensor, Tensor]:
        """Compute loss [k, B] and d loss / d output [k, B, W]; NaN and 0 for failed members."""
        loss = output.new_full(output.shape[:-1], torch.nan)
        output_gradient = torch.zeros_like(output)

        def compute(groups: list[Group]) -> list[tuple[Tensor, Tensor]]:
            """Compute loss and output gradient of each group, with one backward pass for all."""
            leaves = [guarded(output, self._here(group)).requires_grad_() for group in groups]
            losses = [
                _values(self._members, group, leaf, guarded(target, self._here(group)), clock)
                for group, leaf in zip(groups, leaves, strict=True)
            ]
            # A sum, since with `grad_outputs` torch first imports modules for half a second.
            totals = [(values * torch.ones_like(values)).sum() for values in losses]
            total = torch.stack(totals).sum()
            somebodys = [group for group in groups if is_own(group.row.fn)]
            with (
                restoring_process_state(f"loss {somebodys[0].name}")
                if somebodys
                else contextlib.nullcontext()
            ):
                gradients = torch.autograd.grad(total, leaves)
            return [
                (values.detach()[: group.count], gradient[: group.count])
                for group, values, gradient in zip(groups, losses, gradients, strict=True)
            ]

        def fail(group: Group, error: BaseException) -> list[tuple[Tensor, Tensor]]:
            # During a CUDA capture int(clock) raises, so that no member is blamed for its failure.
            self._report(group.start, f"step {int(clock)}: {type(error).__name__}: {error}")
            return []

        healthy: list[Group] = []
        for groups, results in together(self._groups, compute, fail):
            if results:
                healthy += groups
                for group, (values, gradients) in zip(groups, results, strict=True):
                    here = self._here(group)
                    loss[here], output_gradient[here] = values, gradients
        self._groups = healthy
        return loss, output_gradient

    def _here(self, group: Group) -> slice:
        """Slice of a group within the span."""
        return slice(group.start - self._first, group.stop - self._first)


def mean_loss(members: Members, output: Tensor, target: Tensor, clock: Tensor) -> Tensor:
    """Mean of each member's own loss over the batch of a step [1]: [K], differentiable."""
    values = [_unguarded(members, group, output, target, clock) for group in groups_of(members)]
    return torch.cat(values).contiguous().mean(-1)


def evaluated_losses(
    members: Members, output: Tensor, target: Tensor, row: Loss | None = None
) -> Tensor:
    """Mean loss [K] of every member over examples that are not a batch; NaN if the loss raises.

    The loss is that of `row` at default parameters; if None, each member's own loss.
    """

    def compute(groups: list[Group]) -> Tensor:
        (group,) = groups
        return _unguarded(members, group, output, target, None).contiguous().mean(-1)

    def fail(group: Group, error: BaseException) -> Tensor:
        return output.new_full((1,), torch.nan)

    groups = groups_of(members)
    if row is not None:
        groups = [Group(0, len(members.runs), row, NO_PARAMS, row.name)]
    return torch.cat([mean for group in groups for _, mean in together([group], compute, fail)])


def reference_gradient(members: Members, output: Tensor, target: Tensor) -> Tensor:
    """Output gradient [k, B, C] of the task's reference loss at outputs [k, B, C]."""
    return _gradient_of(members, LOSSES[REFERENCE[members.runs[0].row.task]], output, target)


def core_gradients(members: Members, output: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Output gradients [K, B, W] of the core losses at default parameters, see `Moment`."""
    gradients = {}
    for name in CORE[members.runs[0].row.task]:
        row = LOSSES[name]
        is_other = [
            run.row.link(run.loss.params) == row.link()
            and not (run.row is row and row.is_default(run.loss.params))
            for run in members.runs
        ]
        if any(is_other):
            gradient = _gradient_of(members, row, output, target)
            fits = torch.tensor(is_other, device=output.device)[:, None, None]
            gradients[name] = torch.where(fits, gradient, torch.nan)
    return gradients


def _gradient_of(members: Members, row: Loss, output: Tensor, target: Tensor) -> Tensor:
    """Output gradient [k, B, W] of a loss at default parameters, for all members in `output`."""
    group = Group(0, len(output), row, NO_PARAMS, row.name)
    leaf = guarded(output, group.span).requires_grad_()
    values = _values(members, group, leaf, guarded(target, group.span), None)
    return torch.autograd.grad(values.sum(), leaf)[0][group.span]
