"""Evaluation of all members on whole splits: metrics, and the other losses of the task."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lossbench import metrics
from lossbench.engine.members import Members
from lossbench.losses import LOSSES

Values = dict[tuple[str, str], Tensor]


@torch.no_grad()
def evaluated(
    members: Members,
    forward: Callable[..., Tensor],
    parameters: dict[str, Tensor],
    buffers: dict[str, Tensor],
) -> Values:
    """Every metric on every split the stage may see.

    Stage tune sees train and validation, and no other losses; only later stages touch test.

    Returns:
        Values [K] by (split, metric); NaN where a metric is not defined for a member or where the
        member's outputs are not finite.
    """
    members.model.eval()
    outputs = {
        split: forward(parameters, buffers, members.inputs[split][members.places])
        for split in _visible(members)
    }
    members.model.train()
    finite = torch.stack(
        [output.flatten(1).isfinite().all(-1) for output in outputs.values()], -1
    ).all(-1)
    outputs = {name: _zeroed(output, finite) for name, output in outputs.items()}
    targets = {split: members.targets[split][members.places] for split in outputs}
    values = _metrics(members, outputs, targets)
    # Outputs may be finite and their squares not: that is divergence too.
    for (_, name), value in values.items():
        if name in ("rmse", "nll", "brier"):
            finite = finite & value.float().isfinite()  # as recorded: float32
    for split, output in outputs.items() if members.runs[0].stage != "tune" else ():
        for name, value in _cross_losses(members, output, targets[split]).items():
            values[split, f"loss:{name}"] = value
    return {key: torch.where(finite, value, torch.nan) for key, value in values.items()} | {
        ("", "is_finite"): finite
    }


def _visible(members: Members) -> list[str]:
    last = 2 if members.runs[0].stage == "tune" else 3
    return ["train", "validation", "test"][:last]


def _zeroed(output: Tensor, finite: Tensor) -> Tensor:
    return torch.where(finite[:, None, None], output, torch.zeros_like(output))


def _metrics(members: Members, outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Values:
    values: Values = {}
    if members.runs[0].row.task == "regression":
        for split, output in outputs.items():
            found = metrics.regression(members.predict(output), targets[split])
            values |= {(split, name): value for name, value in found.items()}
        return values
    scale = metrics.recalibrate(outputs["validation"], targets["validation"])
    for split, output in outputs.items():
        recalibrated = metrics.recalibrated(output, scale)
        found = metrics.classification(
            members.predict(output),
            targets[split],
            recalibrated=recalibrated,
            is_probability=members.is_probability,
        )
        if split in members.posterior:
            found["kl"] = metrics.kl(members.posterior[split][members.places], recalibrated)
        values |= {(split, name): value for name, value in found.items()}
    return values


def _cross_losses(members: Members, output: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Mean of every loss of the task; NaN where its inverse link is not the member's own."""
    own = members.runs[0].row
    context = members.context_outside_training()
    links = [run.row.link(run.loss.params) for run in members.runs]
    found = {}
    for name, row in LOSSES.items():
        if row.task != own.task:
            continue
        fits = torch.tensor([link == row.link() for link in links])
        if not fits.any():
            continue
        try:
            value = metrics.mean_over_examples(row.values(output, target, context=context))
            found[name] = torch.where(fits.to(value.device), value, torch.nan)
        except Exception:
            continue
    return found
