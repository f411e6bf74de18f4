"""Instruments of a pack: their inputs at an update, and their measurements."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lossbench.data import DATA
from lossbench.engine.members import Members
from lossbench.engine.memory_layout import guards
from lossbench.engine.state import State
from lossbench.engine.strategies.autograd import Forward, one_by_one
from lossbench.engine.strategy import GradientOf, Named
from lossbench.engine.training_losses import Group, core_gradients, groups_of, mean_loss, together
from lossbench.engine.update import Update
from lossbench.measures.instruments import MEASURES, Moment, due

log = logging.getLogger(__name__)


class Instruments:
    """The instruments that a pack's runs ask for."""

    def __init__(self, members: Members, forward: Forward) -> None:
        self._members, self._forward = members, forward
        self._features = features_of(members)

    def due(self, step: int) -> list[str]:
        """Names of the instruments that measure the update of a step."""
        run = self._members.runs[0]
        return [
            name
            for name in run.instruments
            if due(name, step, steps=run.steps, eval_every=run.eval_every)
        ]

    def measured(
        self, names: Sequence[str], step: int, update: Update, state: State
    ) -> dict[str, Tensor]:
        """Values [K] by metric; NaN if a metric is not defined for a member, or its loss raises.

        `step` is the number of updates done before this one, `state` is the state after it.
        """
        columns: dict[str, Tensor] = {}
        for name in names:

            def measure(groups: list[Group], name: str = name) -> dict[str, Tensor]:
                start, stop = groups[0].start, groups[-1].stop
                moment = self.moment(step, update, state, range(start, stop))
                # Derivatives are not defined for a mean of losses that is not finite.
                is_defined = moment.loss.isfinite().all(-1)
                return {
                    metric: torch.where(is_defined, value, torch.nan)[: stop - start]
                    for metric, value in MEASURES[name](moment).items()
                }

            def fail(group: Group, error: BaseException, name: str = name) -> dict[str, Tensor]:
                log.warning("instrument %s at step %d: %s", name, step, error)
                return {}

            for groups, values in together(groups_of(self._members), measure, fail):
                for metric, value in values.items():
                    empty = value.new_full((len(self._members.runs),), torch.nan)
                    column = columns.setdefault(metric, empty)
                    column[groups[0].start : groups[-1].stop] = value
        return columns

    def moment(self, step: int, update: Update, state: State, indices: range) -> Moment:
        """Input of instruments for adjacent members, followed by guards unless all are chosen."""
        is_everyone = len(indices) == len(self._members.runs)
        behind = max(1, guards(update.loss.shape[-1], update.loss.device))
        chosen = [*indices] if is_everyone else [*indices] + [indices[-1]] * behind
        members = self._members if is_everyone else self._members.subset(chosen)

        def of(values: Tensor) -> Tensor:
            return values.detach() if is_everyone else values.detach()[chosen]

        def all_of(tensors: Named) -> dict[str, Tensor]:
            return {name: of(value) for name, value in tensors.items()}

        clock, batches, clean = torch.tensor([step], device=members.device), members.batches, None
        inputs = batches.at(clock)[0].all
        if "train" in members.clean:
            rows = batches.rows_at(clock)
            seeds = torch.arange(len(rows), device=rows.device)[:, None]
            clean = batches.dense(members.clean["train"][seeds, rows][members.seed_index])
        before, after = all_of(update.parameters), all_of(state.parameters)
        buffers, target, output = all_of(update.buffers), of(update.target), of(update.output)

        def outputs_at(parameters: Named, forward: Forward = self._forward) -> Tensor:
            # A module may write into its buffers, and this call must not update the buffers.
            copies = {name: value.clone() for name, value in buffers.items()}
            return forward(dict(parameters), copies, inputs)

        def features(parameters: Named) -> Tensor | None:
            if self._features is None:
                return None
            with torch.no_grad():
                # Features have as many rows as outputs: one for each position of a sequence.
                return outputs_at(parameters, self._features).reshape(*output.shape[:2], -1)

        return Moment(
            step=step,
            seeds=tuple(run.seed for run in members.runs),
            parameters=before,
            buffers=buffers,
            inputs=inputs,
            target=target,
            clean=clean,
            is_classification=members.runs[0].row.task == "classification"
            and not DATA[members.runs[0].data.fn].is_multilabel,
            output=output,
            prediction=members.predict(output),
            loss=of(update.loss),
            output_gradient=of(update.output_gradient),
            gradient=all_of(update.gradient),
            update={name: after[name] - value for name, value in before.items()},
            mean_loss=lambda parameters: mean_loss(members, outputs_at(parameters), target, clock),
            features=features,
            pull_back=_pull_back(before, outputs_at),
            core_output_gradients=lambda: core_gradients(members, output, target),
        )


def _pull_back(parameters: Named, outputs_at: Callable[[Named], Tensor]) -> GradientOf:
    """Function from output gradients to parameter gradients; all calls share one forward pass."""

    @functools.cache
    def differentiable() -> tuple[dict[str, Tensor], Tensor]:
        leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        return leaves, outputs_at(leaves)

    def gradient_of(output_gradient: Tensor) -> dict[str, Tensor]:
        leaves, outputs = differentiable()
        gradients = torch.autograd.grad(
            outputs, [*leaves.values()], output_gradient, retain_graph=True
        )
        return dict(zip(leaves, gradients, strict=True))

    return gradient_of


def features_of(members: Members) -> Forward | None:
    """Function for the inputs [K, B, ...] of the last linear layer; None without such a layer."""
    layers = [module for module in members.model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        return None

    def of_member(
        parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor
    ) -> Tensor:
        seen: list[Tensor] = []
        hook = layers[-1].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        try:
            torch.func.functional_call(members.model, (parameters, buffers), (inputs,))
        finally:
            hook.remove()
        return seen[-1]

    return one_by_one(of_member) if members.is_apart else torch.func.vmap(of_member)
