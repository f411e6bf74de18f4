"""Evaluation of all members on whole splits: metrics, own loss, other losses of the task."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lossbench.data import DATA
from lossbench.engine.bits import guarded, pieces
from lossbench.engine.losses import evaluated_losses
from lossbench.engine.members import Members
from lossbench.engine.state import State
from lossbench.losses import LOSSES
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


@dataclass(frozen=True)
class Evaluation:
    """What was evaluated of K members.

    Attributes:
        values: [K] by (split, metric); NaN where a metric is not defined for a member or where the
            member's outputs are not finite.
        is_finite: [K], whether they are, and their squares.
    """

    values: Values
    is_finite: Tensor


@torch.no_grad()
def evaluate(
    members: Members, forward: Callable[..., Tensor], state: State, *, is_last: bool
) -> Evaluation:
    """Every metric on every split the stage may see.

    Stage tune sees train and validation, and no losses but each member's own; only later stages
    touch test.

    Args:
        members: The pack.
        forward: All members' forward pass.
        state: Its parameters and buffers are evaluated.
        is_last: Whether training is over. Only then are other losses evaluated, on test, and what
            sorts or bins, off train: they describe trained models.
    """
    splits = ["train", "validation"]
    if members.runs[0].stage != "tune":
        splits.append("test")
    members.model.eval()
    outputs = {
        split: torch.cat(
            [
                forward(state.parameters, state.buffers, members.inputs_of(split, rows))
                for rows in chunks(members.inputs[split], _rows(members, split))
            ],
            1,
        )
        for split in splits
    }
    members.model.train()
    finite = torch.stack(
        [output.flatten(1).isfinite().all(-1) for output in outputs.values()], -1
    ).all(-1)
    outputs = {
        split: torch.where(finite[:, None, None], output, torch.zeros_like(output))
        for split, output in outputs.items()
    }
    targets = {
        split: members.targets[split][:, : _rows(members, split)][members.seed_index]
        for split in outputs
    }
    measure = _regression if members.runs[0].row.task == "regression" else _classification
    values = {
        (split, name): value
        for split, metrics_of_split in measure(members, outputs, targets, is_last=is_last)
        for name, value in metrics_of_split.items()
    }
    # Outputs may be finite and their squares not: that is divergence too.
    for (_, name), value in values.items():
        if name in ("rmse", "nll", "brier"):
            finite = finite & value.float().isfinite()  # as recorded: float32
    for split, output in outputs.items():
        aim = targets[split]
        if members.runs[0].targets != "sampled":
            # What a loss learns is where targets of the kind it is trained on are met.
            aim = members.posterior[split][:, : aim.shape[1]][members.seed_index]
        values[split, OWN_LOSS] = evaluated_losses(members, output, aim)
    if is_last and "test" in outputs:
        for name, value in _cross_losses(members, outputs["test"], targets["test"]).items():
            values["test", f"loss:{name}"] = value
    return Evaluation(
        {key: torch.where(finite, value, torch.nan) for key, value in values.items()}, finite
    )


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


def _regression(
    members: Members, outputs: dict[str, Tensor], targets: dict[str, Tensor], *, is_last: bool
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Metrics [K] by name, of each split."""
    is_clean = DATA[members.runs[0].data.fn].is_test_clean
    for split, output in outputs.items():
        prediction = members.predict(output)
        values = metrics.regression(prediction, targets[split])
        values |= _of_clean(members, split, prediction, targets[split])
        # Noise is what a distribution or a quantile is about: no test without it tells.
        if split == "validation" or (split == "test" and not is_clean):
            values |= _uncertainty(members, output, targets[split])
        yield split, values


def _classification(
    members: Members, outputs: dict[str, Tensor], targets: dict[str, Tensor], *, is_last: bool
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Metrics [K] by name, of each split."""
    fitted = slice(0, MOST_RECALIBRATION_ROWS)
    scale = metrics.recalibrate(outputs["validation"][:, fitted], targets["validation"][:, fitted])
    for split, output in outputs.items():
        prediction, values = members.predict(output), {}
        recalibrated = metrics.recalibrated(output, scale)
        known = {"recalibrated": recalibrated, "is_probability": members.is_probability}
        if split != "train" or members.runs[0].targets == "sampled":
            values = metrics.classification(prediction, targets[split], **known)
        if is_last and split != "train":
            values |= metrics.classification_at_the_end(prediction, targets[split], **known)
        if split in members.posterior:
            posterior = members.posterior[split][:, : output.shape[1]][members.seed_index]
            values["kl"] = metrics.kl(posterior, recalibrated)
            values["tv_posterior"] = _distance(members, prediction, posterior)
        if split in members.bayes:
            values["tv_bayes"] = _distance(members, prediction, members.bayes[split])
        yield split, values | _of_clean(members, split, prediction, targets[split])


def _distance(members: Members, prediction: Tensor, distribution: Tensor) -> Tensor:
    """Total variation [K] between predictions and distributions; NaN where a prediction is none."""
    distance = metrics.total_variation(prediction, distribution)
    return torch.where(members.is_distribution, distance, torch.nan)


def _of_clean(members: Members, split: str, prediction: Tensor, given: Tensor) -> dict[str, Tensor]:
    """What the targets before their corruption say of a split; nothing without corruption."""
    if split not in members.clean:
        return {}
    clean = members.clean[split][:, : given.shape[1]][members.seed_index]
    task = members.runs[0].row.task
    if split == "validation":
        return metrics.clean_validation(prediction, clean, task=task)
    is_labelled = task == "classification"
    return metrics.of_wrong_labels(prediction, given, clean) if is_labelled else {}


def _uncertainty(members: Members, output: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Metrics of predicted distributions and quantiles by name, at each member's own parameters.

    Args:
        members: The pack.
        output: [K, N, W].
        target: [K, N, C].

    Returns:
        [K] each, NaN for members whose loss predicts nothing of that kind; metrics that no member
        has are left out.
    """
    columns: dict[str, Tensor] = {}
    for span, run in members.spans:
        row, params = run.row, run.loss.params
        outputs, aims, values = guarded(output, span), guarded(target, span), {}
        if row.distribution:
            values |= metrics.distribution(row.predicted(outputs, params), aims)
        if row.quantile:
            level = {**row.defaults, **params}[row.quantile]
            values |= metrics.quantile(row.predict(outputs, params), aims, level=level)
        for name, value in values.items():
            empty = value.new_full((len(members.runs),), torch.nan)
            columns.setdefault(name, empty)[span] = value[: span.stop - span.start]
    return columns


def _cross_losses(members: Members, output: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Mean of every loss of the task; NaN where its inverse link is not the member's own."""
    links = [run.row.link(run.loss.params) for run in members.runs]
    means = {}
    for name, row in LOSSES.items():
        if row.task != members.runs[0].row.task:
            continue
        fits = torch.tensor([link == row.link() for link in links], device=output.device)
        if fits.any():
            mean = evaluated_losses(members, output, target, row)
            means[name] = torch.where(fits, mean, torch.nan)
    return means
