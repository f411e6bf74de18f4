"""What the instruments of a pack are given at an update, and what they find."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lossbench.engine.members import Members, check_loss, guarded, guards
from lossbench.engine.strategies import Named, one_by_one
from lossbench.engine.update import Update
from lossbench.losses import LOSSES
from lossbench.losses.spec import NO_PARAMS
from lossbench.measures.instruments import MEASURES, Moment, due
from lossbench.measures.instruments.agreement import CORE
from lossbench.runs.packs import Pack, slices

log = logging.getLogger(__name__)

Forward = Callable[[dict[str, Tensor], dict[str, Tensor], Tensor], Tensor]


class Instruments:
    """The instruments that a pack's runs ask for."""

    def __init__(self, members: Members, forward: Forward) -> None:
        self.members = members
        self.forward = forward
        self.features = features_of(members)
        self.clean = members.clean.get("train")

    def due(self, step: int) -> list[str]:
        """Names of those that measure the update of this step."""
        run = self.members.runs[0]
        return [
            name
            for name in run.instruments
            if due(name, step, steps=run.steps, eval_every=run.eval_every)
        ]

    def measured(self, names: Sequence[str], step: int, update: Update) -> dict[str, Tensor]:
        """Values [K] by metric; NaN where one is not defined, or the member's loss raises in it.

        Args:
            names: Of the instruments.
            step: Updates done before this one.
            update: The update.
        """
        found: dict[str, Tensor] = {}
        for name in names:
            found |= self._one(name, step, update)
        return found

    def _one(self, name: str, step: int, update: Update) -> dict[str, Tensor]:
        """Values of one instrument, of all members at once, or of those alike where that raises."""
        count = len(self.members.runs)
        found: dict[str, Tensor] = {}
        pending = [range(count)]
        while pending:
            own = pending.pop(0)
            try:
                moment = self.moment(step, update, own)
                values = MEASURES[name](moment)
            except (Exception, SystemExit) as error:
                log.warning("instrument %s at step %d: %s", name, step, error)
                pending[:0] = self._parts(own)
                continue
            for metric, value in values.items():
                # A mean of losses that is not finite has no derivatives to speak of.
                is_defined = moment.loss.isfinite().all(-1)
                value = torch.where(is_defined, value, torch.nan)[: len(own)]
                found.setdefault(metric, value.new_full((count,), torch.nan))
                found[metric][own.start : own.stop] = value
        return found

    def _parts(self, own: range) -> list[range]:
        """Members of one loss each, then single ones, then none."""
        spans = [range(span.start, span.stop) for span, _ in self.members.spans]
        spans = [span for span in spans if span.start in own]
        if len(spans) > 1:
            return spans
        return [range(place, place + 1) for place in own] if len(own) > 1 else []

    def moment(self, step: int, update: Update, own: range) -> Moment:
        """The update as the members `own` see it, with repetitions of the last behind some of them.

        Args:
            step: Updates done before this one.
            update: Of all K members.
            own: Places of neighbours.
        """
        everyone = len(own) == len(self.members.runs)
        behind = max(1, guards(update.loss.shape[-1], update.loss.device))
        places = [*own] + [own[-1]] * behind * (not everyone)
        members = self.members if everyone else _some(self.members, places)

        def some(values: Tensor) -> Tensor:
            return values if everyone else values[places]

        def every(state: Named) -> dict[str, Tensor]:
            return {name: some(value.detach()) for name, value in state.items()}

        output = some(update.output.detach())
        before, after = every(update.parameters), every(update.after)
        clock = members.clock(step)
        inputs = members.batch(clock)[0].all
        view = _View(members, self.forward, every(update.buffers), inputs)
        target = some(update.target)
        return Moment(
            step=step,
            seeds=tuple(run.seed for run in members.runs),
            parameters=before,
            buffers=view.buffers,
            inputs=view.inputs,
            target=target,
            clean=self._clean_target(members, clock),
            is_classification=members.runs[0].row.task == "classification",
            output=output,
            prediction=members.predict(output),
            loss=some(update.loss),
            output_gradient=some(update.output_gradient),
            gradient=every(update.gradient),
            update={name: after[name] - value for name, value in before.items()},
            mean_loss=lambda parameters: view.mean_loss(parameters, target, clock),
            features=lambda parameters: view.features(self.features, parameters),
            pulled_back=view.pulled_back(before),
            slopes=lambda: core_slopes(members, output, target),
        )

    def _clean_target(self, members: Members, clock: Tensor) -> Tensor | None:
        if self.clean is None:
            return None
        rows = members.rows(clock)
        seeds = torch.arange(len(rows), device=rows.device)[:, None]
        return self.clean[seeds, rows][members.places]


@dataclass(frozen=True)
class _View:
    """Members with a batch: what can be computed again at other parameters."""

    members: Members
    forward: Forward
    buffers: dict[str, Tensor]
    inputs: Tensor

    def output(self, parameters: Named) -> Tensor:
        # A module may write into its buffers: these are no update.
        buffers = {name: value.clone() for name, value in self.buffers.items()}
        return self.forward(dict(parameters), buffers, self.inputs)

    def mean_loss(self, parameters: Named, target: Tensor, clock: Tensor) -> Tensor:
        output, parts = self.output(parameters), []
        for span, run in self.members.spans:
            leaf = guarded(output, span)
            context = self.members.context(span, clock) if run.row.needs_context else None
            values = run.row.values(leaf, guarded(target, span), run.loss.params, context)
            check_loss(values, leaf, run.loss.name)
            parts.append(values[: span.stop - span.start])
        return torch.cat(parts).contiguous().mean(-1)

    def features(self, forward: Forward | None, parameters: Named) -> Tensor | None:
        if forward is None:
            return None
        buffers = {name: value.clone() for name, value in self.buffers.items()}
        with torch.no_grad():
            return forward(dict(parameters), buffers, self.inputs).flatten(2)

    def pulled_back(self, parameters: Named) -> Callable[[Tensor], dict[str, Tensor]]:
        """From output gradients to those of the parameters, through one forward pass."""
        kept: list[Any] = []

        def pull(output_gradient: Tensor) -> dict[str, Tensor]:
            if not kept:
                leaves = {
                    name: value.detach().requires_grad_() for name, value in parameters.items()
                }
                kept.extend((leaves, self.output(leaves)))
            leaves, output = kept
            slopes = torch.autograd.grad(
                output, [*leaves.values()], output_gradient, retain_graph=True
            )
            return dict(zip(leaves, slopes, strict=True))

        return pull


def core_slopes(members: Members, output: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Output gradients [K, B, W] of the core losses at their defaults, see `Moment.slopes`.

    Args:
        members: The K members.
        output: [K, B, W].
        target: [K, B, C].
    """
    runs, everyone = members.runs, slice(0, len(members.runs))
    found = {}
    for name in CORE[runs[0].row.task]:
        row = LOSSES[name]
        others = [
            run.row.link(run.loss.params) == row.link()
            and not (run.row is row and {**row.defaults, **run.loss.params} == row.defaults)
            for run in runs
        ]
        if any(others):
            leaf = guarded(output, everyone).requires_grad_()
            values = row.values(leaf, guarded(target, everyone), NO_PARAMS)
            slope = torch.autograd.grad(values.sum(), leaf)[0][everyone]
            fits = torch.tensor(others, device=output.device)[:, None, None]
            found[name] = torch.where(fits, slope, torch.nan)
    return found


def features_of(members: Members) -> Forward | None:
    """All members' inputs of the last linear layer, [K, B, ...]; None for a model without one."""
    layers = [module for module in members.model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        return None

    def one(parameters: Any, buffers: Any, inputs: Tensor) -> Tensor:
        seen: list[Tensor] = []
        hook = layers[-1].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        try:
            torch.func.functional_call(members.model, (parameters, buffers), (inputs,))
        finally:
            hook.remove()
        return seen[-1]

    def packed(parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor) -> Tensor:
        if not members.is_apart:
            return torch.func.vmap(one)(parameters, buffers, inputs)
        return one_by_one(one, parameters, buffers, inputs)

    return packed


def _some(members: Members, places: Sequence[int]) -> Members:
    """Some of the members as a pack of their own; places of equal losses side by side."""
    runs = tuple(members.runs[place] for place in places)
    spans = slices(Pack("", runs))
    return replace(members, runs=runs, spans=spans, places=members.places[[*places]])
