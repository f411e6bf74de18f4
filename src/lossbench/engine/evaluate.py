"""Evaluation of all members on whole splits: metrics, own loss, other losses of the task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lossbench.claims.kind import is_separable
from lossbench.data import DATA
from lossbench.engine.members import Members
from lossbench.engine.memory_layout import guarded, row_chunks
from lossbench.engine.state import State
from lossbench.engine.training_losses import evaluated_losses
from lossbench.losses import LOSSES
from lossbench.measures import metric_values
from lossbench.measures.recalibration import recalibrate, recalibrated
from lossbench.question import Run
from lossbench.records import OWN_LOSS, SPLITS
from lossbench.user_code import is_own

MOST_TRAINING_ROWS = 2_000
"""Most outputs on the training split that are evaluated: the first outputs of the split."""

MOST_RECALIBRATION_ROWS = 2_000
MOST_RECALIBRATION_POSITIONS = 8_192
"""Most validation examples, and most positions of sequences, on which the common recalibration is
fitted: the first of the split."""

MOST_EXAMPLES = 2_000
"""Most test examples whose contributions are recorded: larger splits rarely limit an answer."""

CHUNK_OF_VECTORS, CHUNK_OF_IMAGES, CHUNK_OF_TOKENS = 2**21, 2**16, 2**12
"""Most values of the inputs that go through the model at once, by kind of input."""

LEAST_ROWS = 16
"""Least number of examples that go through the model at once, however large an example is."""


@dataclass(frozen=True)
class Evaluation:
    """Evaluation of K members.

    Attributes:
        values: [K] by (split, metric); NaN if a metric is not defined for a member, or if outputs
            of the member are not finite.
        is_finite: [K], whether all outputs of a member, and their squares, are finite.
        examples: [K, N], contribution of each test example to the task's metric; [K, 0] before the
            last step, and if the test split is too large or generated anew for every seed.
    """

    values: dict[tuple[str, str], Tensor]
    is_finite: Tensor
    examples: Tensor


@dataclass(frozen=True)
class _Predictions:
    """Outputs of K members on all splits.

    Attributes:
        outputs: By split, [K, N, W]; zero for a member with an output that is not finite.
        targets: By split, [K, N, C].
        scale: Parameters of `recalibrate`, fitted on validation; None in regression.
        is_finite: [K], whether all outputs of a member are finite.
    """

    outputs: dict[str, Tensor]
    targets: dict[str, Tensor]
    scale: Tensor | None
    is_finite: Tensor


@torch.no_grad()
def evaluate(members: Members, forward: Callable[..., Tensor], state: State) -> Evaluation:
    """Metrics on every split while a pack trains, at the parameters and buffers of a state."""
    return _evaluation(members, _predictions(members, forward, state))


@torch.no_grad()
def evaluate_trained(members: Members, forward: Callable[..., Tensor], state: State) -> Evaluation:
    """Evaluation after the last update, with further metrics that describe trained models.

    Further metrics are: on validation and test, metrics that sort or bin examples; on test, the
    other losses of the task and the contribution of each example. Losses of the task are NaN for
    members with another inverse link, and a loss of the user is evaluated only on the members that
    are trained with that loss.
    """
    predictions = _predictions(members, forward, state)
    evaluation = _evaluation(members, predictions)
    output, target = predictions.outputs["test"], predictions.targets["test"]
    run, has_many_labels = members.runs[0], DATA[members.runs[0].data.fn].is_multilabel
    further = {
        (split, name): value
        for split in ("validation", "test")
        for name, value in _ranked(members, split, predictions).items()
    }
    links = [member.row.link(member.loss.params) for member in members.runs]
    for name, row in LOSSES.items():
        if row.task != run.row.task or (has_many_labels and not is_separable(row)):
            continue
        fitting = [
            link == row.link() and (member.row is row or not is_own(row.fn))
            for member, link in zip(members.runs, links, strict=True)
        ]
        if any(fitting):
            fits = torch.tensor(fitting, device=output.device)
            mean = evaluated_losses(members, output, target, row)
            further["test", f"loss:{name}"] = torch.where(fits, mean, torch.nan)
    for key, value in further.items():
        evaluation.values[key] = torch.where(evaluation.is_finite, value, torch.nan)
    count = recorded_examples(run, members.inputs["test"].shape[1])
    if not count:
        return evaluation
    if has_many_labels:
        hits = metric_values.label_hits(_recalibrated_labels(output, predictions.scale), target)
        parts = hits.mean(-1)
    else:
        prediction = members.predict(output)
        parts = metric_values.contributions(prediction, target, task=run.row.task)
    is_sequence = members.batches.positions > 1
    examples = parts.unflatten(1, (count, -1)).mean(-1) if is_sequence else parts
    return replace(evaluation, examples=examples)


def _predictions(members: Members, forward: Callable[..., Tensor], state: State) -> _Predictions:
    """Outputs of all members, their targets, and the common recalibration."""
    outputs, positions = {}, members.batches.positions
    members.model.eval()
    for split in SPLITS:
        rows = members.inputs[split].shape[1]
        if split == "train":
            rows = min(rows, most_training_rows(positions))
        of_chunks = [
            forward(state.parameters, state.buffers, members.inputs_of(split, chunk))
            for chunk in chunks(members.inputs[split], rows)
        ]
        outputs[split] = torch.cat(of_chunks, 1)
    members.model.train()
    largest = torch.stack([output.flatten(1).abs().amax(-1) for output in outputs.values()], -1)
    is_finite = largest.isfinite().all(-1)
    for split, output in outputs.items():
        outputs[split] = torch.where(is_finite[:, None, None], output, torch.zeros_like(output))
    targets = {name: members.rows_of(members.targets[name], outputs[name]) for name in outputs}
    run, scale = members.runs[0], None
    if run.row.task == "classification":
        most = MOST_RECALIBRATION_ROWS if positions == 1 else MOST_RECALIBRATION_POSITIONS
        fitted_outputs = outputs["validation"][:, :most]
        fitted_targets = targets["validation"][:, :most]
        if DATA[run.data.fn].is_multilabel:
            fitted_outputs = metric_values.label_outputs(fitted_outputs)
            fitted_targets = metric_values.label_targets(fitted_targets)
        scale = recalibrate(fitted_outputs, fitted_targets)
    return _Predictions(outputs, targets, scale, is_finite)


def _evaluation(members: Members, predictions: _Predictions) -> Evaluation:
    """Metrics of predictions on every split, and each member's own loss."""
    run, scale, is_finite = members.runs[0], predictions.scale, predictions.is_finite
    values = {}
    for split, output in predictions.outputs.items():
        target = predictions.targets[split]
        if scale is None:
            of_split = _regression(members, split, output, target)
        elif DATA[run.data.fn].is_multilabel:
            of_split = _multilabel(members, split, output, target, scale)
        else:
            of_split = _classification(members, split, output, target, scale)
        # Outputs may be finite and their squares not: that is divergence too.
        for name, value in of_split.items():
            if name in ("rmse", "nll", "brier"):
                is_finite = is_finite & value.float().isfinite()  # as recorded: float32
        # A member's own loss is evaluated against targets of the kind that it is trained on.
        if run.targets != "sampled":
            target = members.rows_of(members.distributions[split], output)
        of_split[OWN_LOSS] = evaluated_losses(members, output, target)
        values |= {(split, name): value for name, value in of_split.items()}
    examples = predictions.outputs["test"].new_empty(len(is_finite), 0)
    values = {key: torch.where(is_finite, value, torch.nan) for key, value in values.items()}
    return Evaluation(values, is_finite, examples)


def most_training_rows(positions: int) -> int:
    """Most training examples that are evaluated, given the number of positions of an example."""
    return -(-MOST_TRAINING_ROWS // positions)


def recorded_examples(run: Run, count: int) -> int:
    """Number of test examples whose contributions are recorded: `count` or 0."""
    return count if DATA[run.data.fn].drawn != "generated" and count <= MOST_EXAMPLES else 0


def chunks(inputs: Tensor, rows: int) -> list[slice]:
    """Slices of rows of inputs [S, N, ...] whose activations fit into memory.

    Slices depend only on rows and the shape of an example: a member's bits must not depend on K.
    """
    numbers = CHUNK_OF_VECTORS if inputs.dim() == 3 else CHUNK_OF_IMAGES
    if not inputs.is_floating_point():
        numbers = CHUNK_OF_TOKENS
    size = max(LEAST_ROWS, numbers // inputs[0, 0].numel())
    return row_chunks(rows, size)


def _regression(members: Members, split: str, output: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Metrics [K] by name, for outputs [K, N, W]; NaN if not defined for a member's loss."""
    prediction = members.predict(output)
    values = metric_values.regression(prediction, target)
    if split in members.clean and split == "validation":
        clean = members.rows_of(members.clean[split], output)
        values |= metric_values.clean_validation(prediction, clean, task="regression")
    # Targets without noise cannot test predicted distributions and quantiles.
    is_noisy = not DATA[members.runs[0].data.fn].is_test_clean
    if split == "validation" or (split == "test" and is_noisy):
        for span, run in members.spans:
            row, params, of_loss = run.row, run.loss.params, {}
            outputs, aims = guarded(output, span), guarded(target, span)
            if row.distribution:
                of_loss |= metric_values.distribution(row.predicted(outputs, params), aims)
            if row.quantile:
                level = {**row.defaults, **params}[row.quantile]
                of_loss |= metric_values.quantile(row.predict(outputs, params), aims, level=level)
            for name, value in of_loss.items():
                empty = value.new_full((len(members.runs),), torch.nan)
                values.setdefault(name, empty)[span] = value[: span.stop - span.start]
    return values


def _classification(
    members: Members, split: str, output: Tensor, target: Tensor, scale: Tensor
) -> dict[str, Tensor]:
    """Metrics [K] by name, for outputs [K, N, C]; NaN if not defined for a member's prediction."""
    prediction, values = members.predict(output), {}
    if split == "train":  # measures memorisation only; not used for verdicts or selection
        if members.runs[0].targets == "sampled":
            values["accuracy"] = metric_values.accuracy(prediction, target)
        if split in members.clean:
            clean = members.rows_of(members.clean[split], output)
            values |= metric_values.of_wrong_labels(prediction, target, clean)
        return values
    log_p = recalibrated(output, scale)
    values = metric_values.classification(
        prediction, target, recalibrated=log_p, is_probability=members.is_probability
    )
    if split in members.posterior:
        posterior = members.rows_of(members.posterior[split], output)
        values["kl"] = metric_values.kl(posterior, log_p)
        values["tv_posterior"] = _distance(members, prediction, posterior)
    if split in members.bayes:
        values["tv_bayes"] = _distance(members, prediction, members.bayes[split])
    if split in members.clean:
        clean = members.rows_of(members.clean[split], output)
        values |= metric_values.clean_validation(prediction, clean, task="classification")
    return values


def _multilabel(
    members: Members, split: str, output: Tensor, target: Tensor, scale: Tensor
) -> dict[str, Tensor]:
    """Metrics [K] by name of examples with many labels; `scale` was fitted label by label."""
    if split == "train" and members.runs[0].targets != "sampled":
        return {}
    log_p = _recalibrated_labels(output, scale)
    if split == "train":
        hits = metric_values.label_hits(log_p, target)
        return {"accuracy": metric_values.mean_over_examples(hits.mean(-1))}
    values = metric_values.multilabel(members.predict(output), target, recalibrated=log_p)
    if split in members.posterior:
        posterior = _label_posterior(members, split, output)
        values["kl"] = output.shape[-1] * metric_values.kl(posterior, log_p.flatten(1, 2))
    return values


def _label_posterior(members: Members, split: str, output: Tensor) -> Tensor:
    """Probabilities [K, N C, 2] that a label is absent, and that the label is present."""
    holds = members.rows_of(members.posterior[split], output)
    return torch.stack([1.0 - holds, holds], -1).flatten(1, 2)


def _ranked(members: Members, split: str, predictions: _Predictions) -> dict[str, Tensor]:
    """Metrics [K] by name that sort or bin examples, and the entropy of a known posterior."""
    output, target = predictions.outputs[split], predictions.targets[split]
    scale = predictions.scale
    if scale is None:
        return {}
    if DATA[members.runs[0].data.fn].is_multilabel:
        missing, holds = _recalibrated_labels(output, scale).unbind(-1)
        values = {"average_precision": metric_values.average_precision(holds - missing, target)}
        if split in members.posterior:
            entropy = metric_values.entropy(_label_posterior(members, split, output))
            values["entropy_floor"] = output.shape[-1] * entropy
        return values
    values = metric_values.ranked_classification(
        members.predict(output),
        target,
        recalibrated=recalibrated(output, scale),
        is_probability=members.is_probability,
    )
    if split in members.posterior:
        values["entropy_floor"] = metric_values.entropy(
            members.rows_of(members.posterior[split], output)
        )
    return values


def _recalibrated_labels(output: Tensor, scale: Tensor | None) -> Tensor:
    """Log-probabilities [K, N, C, 2] that a label is absent, and that the label is present."""
    assert scale is not None, "fitted on every classification set"
    apart = recalibrated(metric_values.label_outputs(output), scale)
    return apart.unflatten(0, (len(output), -1)).transpose(1, 2)


def _distance(members: Members, prediction: Tensor, distribution: Tensor) -> Tensor:
    """Total variation [K] from distributions; NaN if a member does not predict distributions."""
    distance = metric_values.total_variation(prediction, distribution)
    return torch.where(members.is_distribution, distance, torch.nan)
