"""Evaluation of all members on whole splits: metrics, own loss, other losses of the task."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lossbench.data import DATA
from lossbench.engine.members import Members, pieces
from lossbench.engine.uncertainty import uncertainty
from lossbench.losses import LOSSES
from lossbench.losses.spec import NO_PARAMS
from lossbench.measures import metrics
from lossbench.records import OWN_LOSS

Values = dict[tuple[str, str], Tensor]

MOST_TRAINING_ROWS = 10_000
"""Examples of the training split that are evaluated: the first ones of a larger one."""

MOST_RECALIBRATION_ROWS = 2_000
"""Examples of validation that the common recalibration is fitted on: the first ones."""

CHUNK_OF_VECTORS, CHUNK_OF_IMAGES = 2**21, 2**16
"""Numbers of the inputs that go through the model at once."""

LEAST_ROWS = 16
"""Examples that go through at once at least, however large they are."""


@torch.no_grad()
def evaluated(
    members: Members,
    forward: Callable[..., Tensor],
    parameters: dict[str, Tensor],
    buffers: dict[str, Tensor],
    *,
    is_last: bool,
) -> Values:
    """Every metric on every split the stage may see.

    Stage tune sees train and validation, and no losses but each member's own; only later stages
    touch test.

    Args:
        members: The pack.
        forward: All members' forward pass.
        parameters: By name, [K, ...].
        buffers: By name, [K, ...].
        is_last: Whether training is over. Only then are other losses evaluated, on test, and what
            sorts or bins, off train: they describe trained models.

    Returns:
        Values [K] by (split, metric); NaN where a metric is not defined for a member or where the
        member's outputs are not finite.
    """
    members.model.eval()
    outputs = {
        split: torch.cat(
            [
                forward(parameters, buffers, members.seen(split, rows))
                for rows in chunks(members.inputs[split], _rows(members, split))
            ],
            1,
        )
        for split in _visible(members)
    }
    members.model.train()
    finite = torch.stack(
        [output.flatten(1).isfinite().all(-1) for output in outputs.values()], -1
    ).all(-1)
    outputs = {name: _zeroed(output, finite) for name, output in outputs.items()}
    targets = {
        split: members.targets[split][:, : _rows(members, split)][members.places]
        for split in outputs
    }
    values = _metrics(members, outputs, targets, is_last=is_last)
    # Outputs may be finite and their squares not: that is divergence too.
    for (_, name), value in values.items():
        if name in ("rmse", "nll", "brier"):
            finite = finite & value.float().isfinite()  # as recorded: float32
    for split, output in outputs.items():
        values[split, OWN_LOSS] = members.own_losses(output, _fed(members, split, targets[split]))
    if is_last and "test" in outputs:
        for name, value in _cross_losses(members, outputs["test"], targets["test"]).items():
            values["test", f"loss:{name}"] = value
    return {key: torch.where(finite, value, torch.nan) for key, value in values.items()} | {
        ("", "is_finite"): finite
    }


def _fed(members: Members, split: str, target: Tensor) -> Tensor:
    """Targets of the kind that the loss is trained on: what it learns is where these are met."""
    if members.runs[0].targets == "sampled":
        return target
    return members.posterior[split][:, : target.shape[1]][members.places]


def _visible(members: Members) -> list[str]:
    last = 2 if members.runs[0].stage == "tune" else 3
    return ["train", "validation", "test"][:last]


def _rows(members: Members, split: str) -> int:
    """How many examples of a split are evaluated, its first ones."""
    rows = members.inputs[split].shape[1]
    return min(rows, MOST_TRAINING_ROWS) if split == "train" else rows


def chunks(inputs: Tensor, rows: int) -> list[slice]:
    """Slices of rows of inputs [S, N, ...] whose activations fit into memory.

    They depend on the shape of an example only: a member's bits may not depend on K.
    """
    numbers = CHUNK_OF_VECTORS if inputs.dim() == 3 else CHUNK_OF_IMAGES
    size = max(LEAST_ROWS, numbers // inputs[0, 0].numel())
    return pieces(rows, size)


def _zeroed(output: Tensor, finite: Tensor) -> Tensor:
    return torch.where(finite[:, None, None], output, torch.zeros_like(output))


def _metrics(
    members: Members, outputs: dict[str, Tensor], targets: dict[str, Tensor], *, is_last: bool
) -> Values:
    values: Values = {}
    is_clean = DATA[members.runs[0].data.fn].is_test_clean
    if members.runs[0].row.task == "regression":
        for split, output in outputs.items():
            prediction = members.predict(output)
            found = metrics.regression(prediction, targets[split])
            found |= _of_clean(members, split, prediction, targets[split])
            # Noise is what a distribution or a quantile is about: no test without it tells.
            if split == "validation" or (split == "test" and not is_clean):
                found |= uncertainty(members, output, targets[split])
            values |= {(split, name): value for name, value in found.items()}
        return values
    fitted = slice(0, MOST_RECALIBRATION_ROWS)
    scale = metrics.recalibrate(outputs["validation"][:, fitted], targets["validation"][:, fitted])
    for split, output in outputs.items():
        recalibrated = metrics.recalibrated(output, scale)
        prediction, found = members.predict(output), {}
        if split != "train" or members.runs[0].targets == "sampled":
            found = metrics.classification(
                prediction,
                targets[split],
                recalibrated=recalibrated,
                is_probability=members.is_probability,
            )
        if is_last and split != "train":
            found |= metrics.classification_at_the_end(
                prediction,
                targets[split],
                recalibrated=recalibrated,
                is_probability=members.is_probability,
            )
        if split in members.posterior:
            posterior = members.posterior[split][:, : output.shape[1]][members.places]
            found["kl"] = metrics.kl(posterior, recalibrated)
            found["tv_posterior"] = _of_distributions(members, prediction, posterior)
        if split in members.bayes:
            found["tv_bayes"] = _of_distributions(members, prediction, members.bayes[split])
        found |= _of_clean(members, split, prediction, targets[split])
        values |= {(split, name): value for name, value in found.items()}
    return values


def _of_clean(members: Members, split: str, prediction: Tensor, given: Tensor) -> dict[str, Tensor]:
    """What the targets before their corruption say of a split; nothing without corruption."""
    if split not in members.clean:
        return {}
    clean = members.clean[split][:, : given.shape[1]][members.places]
    task = members.runs[0].row.task
    if split == "validation":
        return metrics.clean_validation(prediction, clean, task=task)
    is_labelled = task == "classification"
    return metrics.of_wrong_labels(prediction, given, clean) if is_labelled else {}


def _of_distributions(members: Members, prediction: Tensor, distribution: Tensor) -> Tensor:
    distance = metrics.total_variation(prediction, distribution)
    return torch.where(members.is_distribution, distance, torch.nan)


def _cross_losses(members: Members, output: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Mean of every loss of the task; NaN where its inverse link is not the member's own."""
    own = members.runs[0].row
    everyone = slice(0, len(members.runs))
    links = [run.row.link(run.loss.params) for run in members.runs]
    found = {}
    for name, row in LOSSES.items():
        if row.task != own.task:
            continue
        fits = torch.tensor([link == row.link() for link in links], device=output.device)
        if fits.any():
            value = members.mean_losses(row, NO_PARAMS, everyone, output, target)
            found[name] = torch.where(fits, value, torch.nan)
    return found
