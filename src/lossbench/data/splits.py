"""Data sets as tensors for train, validation and test, and the division of rows into splits."""

from __future__ import annotations

import functools
import hashlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lossbench.data.files import Files
from lossbench.data.teacher import teacher_probabilities
from lossbench.fingerprints import add_tensors, stream
from lossbench.records import SPLITS

SHARES = (0.6, 0.2, 0.2)

NO_PARAMS: Mapping[str, object] = MappingProxyType({})


class Tokens(NamedTuple):
    """Shape of one sequence for a model: T positions, each with one of V tokens."""

    positions: int
    vocabulary: int


@dataclass(frozen=True)
class Splits:
    """The tensors of a data set for one seed, by split.

    A sequence example has T positions, each with an input token and a label, the next token. All T
    positions have equal weight: no position is padding, and no position is ignored.

    Attributes:
        inputs: By split, standardised by the training split: [N, F], images as [N, channels,
            height, width]. For sequences the tokens, [N, T], whole numbers from 0 to V - 1.
        targets: By split, [N, C]: one-hot labels, or real values in training standard deviations.
            For sequences the labels, [N, T], whole numbers, which `dense` makes one-hot for each
            batch; or, instead of labels, distributions, [N, T, C].
        task: "regression" or "classification".
        target_scale: Standard deviation of the training target in the unit of the target; 1 for
            labels.
        posterior: By split, [N, C] or [N, T, C], true class probabilities; empty if unknown.
        distributions: By split, [N, C] or [N, T, C], training targets instead of labels: the
            posterior, or a teacher's probabilities; empty if training uses labels.
        uncorrupted: The splits before targets were corrupted; None without such corruption.
        vocabulary: Number of distinct tokens of sequences, V, which equals C; 0 for all other data.
        aside: Training data of a model that is trained before the runs; None without such a model.
        start: State of that trained model, if runs start from the state.
    """

    inputs: dict[str, Tensor]
    targets: dict[str, Tensor]
    task: str
    target_scale: float
    posterior: dict[str, Tensor] = field(default_factory=dict)
    uncorrupted: Splits | None = None
    vocabulary: int = 0
    distributions: dict[str, Tensor] = field(default_factory=dict)
    aside: Splits | None = None
    start: Mapping[str, Tensor] | None = None

    @property
    def clean(self) -> dict[str, Tensor]:
        """Targets before corruption, by split; empty if targets were not corrupted."""
        return {} if self.uncorrupted is None else self.uncorrupted.targets

    @property
    def sizes(self) -> tuple[int | Tokens | tuple[int, ...], int]:
        """Input shape for a model, which is F, (channels, height, width) or `Tokens`; and C."""
        shape = tuple(self.inputs["train"].shape[1:])
        if self.vocabulary:
            return Tokens(shape[0], self.vocabulary), self.outputs
        return shape[0] if len(shape) == 1 else shape, self.outputs

    @property
    def outputs(self) -> int:
        """Number of outputs of a model for one target, C."""
        return self.vocabulary or self.targets["train"].shape[-1]

    @property
    def positions(self) -> int:
        """Number of targets of an example, each with a separate output: T of sequences, else 1."""
        return self.inputs["train"].shape[1] if self.vocabulary else 1

    def label_shape(self, split: str) -> tuple[int, ...]:
        """Shape of the labels of a split: [N], of sequences [N, T]."""
        inputs = self.inputs[split].shape
        return tuple(inputs[:2] if self.vocabulary else inputs[:1])

    @property
    def class_counts(self) -> Tensor:
        """Training targets summed over examples and positions, [C]."""
        targets = self.targets["train"]
        if targets.is_floating_point():
            return targets.flatten(0, -2).sum(0)
        return torch.bincount(targets.flatten(), minlength=self.vocabulary).float()

    def with_training_rows(self, rows: Tensor) -> Splits:
        """Keep only these rows of train; validation and test are unchanged."""
        parts = {
            name: part | {"train": part["train"][rows]}
            for name in ("inputs", "targets", "posterior", "distributions")
            if (part := getattr(self, name))
        }
        return replace(self, **parts)

    @functools.cached_property
    def label_probabilities(self) -> dict[str, Tensor]:
        """Class probabilities by split: the posterior, or, if unknown, those of a teacher, [N, C].

        Raises:
            ValueError: The posterior of sequences is unknown; a teacher does not read tokens.
        """
        if self.vocabulary and not self.posterior:
            raise ValueError(
                "no teacher knows the probabilities of these tokens: use "
                "data.corruption.name=symmetric, or data=markov_text"
            )
        return self.posterior or teacher_probabilities(self.inputs, self.targets["train"])

    @functools.cached_property
    def sha(self) -> str:
        """Fingerprint of all data that a run uses: inputs, posterior and targets of all splits."""
        digest = self._hash_of_inputs.copy()
        parts = {"posterior": self.posterior, "targets": self.targets}
        add_tensors(
            digest,
            {f"{part}/{split}": parts[part][split] for part in parts for split in parts[part]},
        )
        return digest.hexdigest()

    @functools.cached_property
    def _hash_of_inputs(self) -> hashlib._Hash:
        """Hash object of the inputs, which `sha` copies; corrupted splits share the object."""
        if self.uncorrupted is not None and self.uncorrupted.inputs is self.inputs:
            return self.uncorrupted._hash_of_inputs
        digest = hashlib.sha256()
        add_tensors(digest, {f"inputs/{split}": rows for split, rows in self.inputs.items()})
        return digest


@dataclass(frozen=True)
class Extent:
    """Number of examples in each split, at default parameters and for every seed.

    `inputs` is the shape of one example, (F,), (channels, height, width) or (T,) of sequences;
    `outputs` is C, the number of classes or of regression targets.
    """

    train: int
    validation: int
    test: int
    inputs: tuple[int, ...]
    outputs: int

    @classmethod
    def of(cls, splits: Splits) -> Extent:
        """Count the examples, inputs and outputs of splits."""
        counts = (len(splits.inputs[split]) for split in SPLITS)
        inputs = tuple(splits.inputs["train"].shape[1:])
        return cls(*counts, inputs=inputs, outputs=splits.outputs)


@dataclass(frozen=True)
class Data:
    """Declaration of a data set.

    Args:
        fn: `fn(*, seed, **params) -> Splits`. A function that reads files has a parameter
            `files: Files` without default.
        task: "regression" or "classification".
        source: Origin of the data.
        licence: Licence of the files, as their distributor states it; empty for generated data.
        drawn: Part that each seed draws anew: "generated" (everything, including test examples),
            "resplit" (the division into training and validation; test examples are the same for
            every seed, in the same order, as `permuted` gives them) or "fixed" (nothing: the test
            set is the published one; the function returns the same tensors for every seed, so that
            a pack holds one copy).
        confusions: Classes that people confuse with each other, by class, for `asymmetric`.
        is_symmetric: Whether noise is symmetric, so that mean, median and the like coincide.
        is_test_clean: Whether test targets are free of the noise in the targets of train and
            validation, so that errors on test are distances to the truth.
        domain: "nonnegative" if targets are counts or the like, not centred; else "real".
        note: A sentence that a reader of results on this data set must know.
        bar: Measured result of another model on the test split, to recognise wrong runs.
        extent: Sizes at default parameters, for a set whose files may be missing; None: counted.
        unit: Unit of the target, as printed after a number; empty without a unit. A mapping from
            values of the parameter `target` to units, if that parameter chooses the unit.
        content: Hash of examples that are not generated by code, as in a user's table; or a
            function from the data function's parameters to the hash.
        is_multilabel: Whether a classification target may have any number of classes, each with
            a 1, so that softmax losses, and other losses whose classes compete, are refused.
    """

    fn: Callable[..., Splits]
    task: str
    source: str
    drawn: str = "resplit"
    is_symmetric: bool = False
    is_test_clean: bool = False
    domain: str = "real"
    note: str = ""
    confusions: Mapping[int, int] = field(default_factory=dict)
    licence: str = ""
    bar: str = ""
    extent: Extent | None = None
    unit: str | Mapping[str, str] = ""
    content: str | Callable[..., str] = ""
    is_multilabel: bool = False

    @property
    def name(self) -> str:
        """Name of the data function."""
        return self.fn.__name__

    def unit_of(self, params: Mapping[str, Any]) -> str:
        """Unit of the target, given the data function's parameters."""
        return self.unit if isinstance(self.unit, str) else self.unit[params["target"]]

    def content_of(self, params: Mapping[str, object]) -> str:
        """Hash of the examples that are not generated by code, given the function's parameters."""
        return self.content if isinstance(self.content, str) else self.content(**params)

    def splits(self, seed: int, files: Files, params: Mapping[str, object] = NO_PARAMS) -> Splits:
        """Call the data function for one seed; `files` is passed if the function reads files."""
        if "files" in inspect.signature(self.fn).parameters:
            return self.fn(seed=seed, files=files, **params)
        return self.fn(seed=seed, **params)


def problem_of(splits: object, *, task: str, is_multilabel: bool = False) -> str:
    """Reason why training on the splits of a data function is impossible; empty if possible."""
    if not isinstance(splits, Splits):
        return (
            f"its function returned {type(splits).__name__}: return Splits, as "
            "lossbench.data.splits.classification and regression make them"
        )
    if splits.task != task:
        return f"its splits are {splits.task}, and its row says task={task!r}"
    if not isinstance(splits.target_scale, float) or not 0 < splits.target_scale < math.inf:
        return f"its target_scale is {splits.target_scale!r}: give a positive number"
    for part, rows in {"inputs": splits.inputs, "targets": splits.targets}.items():
        for split in SPLITS:
            values = rows.get(split)
            wanted = torch.int64 if splits.vocabulary else torch.float32
            if not isinstance(values, Tensor) or values.dtype != wanted:
                kind = str(getattr(values, "dtype", type(values).__name__))
                name = str(wanted).removeprefix("torch.")
                return f"{part} of split {split} are {kind}: give a tensor of {name}"
            if values.ndim < 2 or len(values) < 2:
                return f"{part} of split {split} have shape {tuple(values.shape)}: give [N, ...]"
            if values.requires_grad:
                return f"{part} of split {split} require a gradient: detach them"
            if count := int((~values.isfinite()).sum()):
                return f"{part} of split {split}: {count} numbers are not finite"
            if splits.vocabulary and not 0 <= values.min() <= values.max() < splits.vocabulary:
                ends = f"{int(values.min())} to {int(values.max())}"
                return (
                    f"{part} of split {split} are {ends}, and vocabulary is {splits.vocabulary}: "
                    "give tokens from 0 to one less; no position is padded or ignored"
                )
        if len({tuple(rows[split].shape[1:]) for split in SPLITS}) > 1:
            shapes = [tuple(rows[split].shape) for split in SPLITS]
            return f"{part} of the splits have shapes {shapes}: all but N must be equal"
    for split in SPLITS:
        counts = len(splits.inputs[split]), len(splits.targets[split])
        if counts[0] != counts[1]:
            return f"split {split} has {counts[0]} inputs and {counts[1]} targets"
        inputs, target = splits.inputs[split], splits.targets[split]
        if splits.vocabulary and (inputs.shape != target.shape or inputs.ndim != 2):
            shapes = f"{tuple(inputs.shape)} and {tuple(target.shape)}"
            return f"inputs and targets of split {split} have shapes {shapes}: give [N, T] for both"
        is_label = (target >= 0).all() and (
            splits.vocabulary or torch.allclose(target.sum(-1), torch.ones(len(target)))
        )
        if is_multilabel:
            if not ((target == 0) | (target == 1)).all():
                return f"targets of split {split} are no labels: give 1 for each that holds, else 0"
        elif task == "classification" and not is_label:
            return f"targets of split {split} are no labels: give one-hot rows, each with sum 1"
        known = splits.posterior.get(split)
        shape = (*target.shape, splits.vocabulary) if splits.vocabulary else target.shape
        if known is not None and (known.shape != shape or not known.isfinite().all()):
            return f"posterior of split {split} has shape {tuple(known.shape)}, or is not finite"
    return ""


def dense(targets: Tensor, *, classes: int, dtype: torch.dtype) -> Tensor:
    """Convert targets to the dense form of losses, a row for each output: [K, N, C], [K, N T, C].

    Args:
        targets: Targets of K members as in `Splits`: [K, N, C], or for sequences labels [K, N, T]
            or distributions [K, N, T, C].
        classes: C.
        dtype: Data type of one-hot labels.
    """
    if not targets.is_floating_point():
        # Not `one_hot`, which on CUDA synchronises to read the largest label.
        rows = torch.zeros(*targets.shape, classes, dtype=dtype, device=targets.device)
        targets = rows.scatter_(-1, targets[..., None], 1.0)
    return targets.flatten(1, -2)


def set_aside(splits: Splits, *, share: float) -> Splits:
    """Move a share of the training examples to `aside`.

    The same row numbers are moved for every seed; the examples differ if the seed orders the rows.

    Args:
        splits: Splits before any corruption.
        share: Share in [0, 1); at 0 nothing is moved, and `aside` is the splits themselves.

    Raises:
        ValueError: One of the two parts would have fewer than two examples.
    """
    if share == 0.0:
        return replace(splits, aside=splits)
    count = len(splits.inputs["train"])
    chosen = round(share * count)
    if min(chosen, count - chosen) < 2:
        raise ValueError(
            f"pretrained.share is {share}, of {count} examples: use a share that leaves two or more"
        )
    order = torch.randperm(count, generator=stream(0, "prefit"))
    parts = [splits.with_training_rows(rows) for rows in (order[:chosen], order[chosen:])]
    return replace(parts[1], aside=parts[0])


def permuted(count: int, seed: int) -> dict[str, Tensor]:
    """Draw the row indices of each split of `count` rows, 60/20/20.

    The test rows and their order are the same for every seed, so that no seed trains or chooses on
    test rows of another seed. The seed divides the other rows into training and validation.
    """
    ends = [round(count * SHARES[0]), round(count * (SHARES[0] + SHARES[1]))]
    order = torch.randperm(count, generator=stream(0, "split"))
    others, test = order[: ends[1]], order[ends[1] :]
    others = others[torch.randperm(len(others), generator=stream(seed, "split"))]
    return dict(zip(SPLITS, (others[: ends[0]], others[ends[0] :], test), strict=True))


def by_split(values: Tensor, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Select inputs, targets or labels [N, ...] of each split by the row indices of `permuted`."""
    return {split: values[row] for split, row in rows.items()}


def held_out(count: int, validation: int) -> dict[str, Tensor]:
    """Row indices of training and validation for a data set with a published test set.

    Of the `count` rows of the published training set, `validation` rows are held out: the last rows
    of a random order that is the same for every seed.
    """
    order = torch.randperm(count, generator=stream(0, "split"))
    return {"train": order[: count - validation], "validation": order[count - validation :]}


def standardised(by_split: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """Subtract the training mean from columns [N, F] and divide by the training deviation.

    Returns the columns by split, float32, and the standard deviations [F]; constant columns are not
    divided.
    """
    mean = by_split["train"].mean(0)
    scale = by_split["train"].std(0, correction=0)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return {name: ((rows - mean) / scale).float() for name, rows in by_split.items()}, scale


def standardised_images(by_split: dict[str, Tensor]) -> dict[str, Tensor]:
    """Standardise each channel of images [N, channels, height, width] by the training split.

    Images are bytes or floats and become float32; a constant channel is not divided.
    """
    channels = [channel.double() for channel in by_split["train"].unbind(1)]
    mean = torch.stack([channel.mean() for channel in channels])
    scale = torch.stack([channel.std(correction=0) for channel in channels])
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    mean, scale = (part.float()[:, None, None] for part in (mean, scale))
    # In place on copies, because a data set may fill much of a laptop's memory.
    copies = {name: rows.to(torch.float32, copy=True) for name, rows in by_split.items()}
    return {name: rows.sub_(mean).div_(scale) for name, rows in copies.items()}


def _refuse_not_finite(by_split: dict[str, Tensor], what: str) -> None:
    """Refuse numbers that are not finite, because training on them would look like divergence."""
    for split, rows in by_split.items():
        if rows.is_floating_point() and not (finite := rows.isfinite()).all():
            row, column = (~finite).flatten(1).nonzero()[0].tolist()
            raise ValueError(
                f"{what} of split {split}: {int((~finite).sum())} of {rows.numel()} numbers are "
                f"not finite, the first in row {row}, column {column}: fill them in, or leave "
                "their rows out"
            )


def _standardised_inputs(by_split: dict[str, Tensor]) -> dict[str, Tensor]:
    _refuse_not_finite(by_split, "inputs")
    is_image = by_split["train"].ndim == 4
    return standardised_images(by_split) if is_image else standardised(by_split)[0]


def classification(
    inputs: dict[str, Tensor],
    labels: dict[str, Tensor],
    *,
    classes: int,
    posterior: dict[str, Tensor] | None = None,
) -> Splits:
    """Make splits of a classification set from raw inputs and integer labels.

    Args:
        inputs: By split, [N, F] in float64, or images [N, channels, height, width].
        labels: By split, [N], from 0 to C - 1.
        classes: C.
        posterior: By split, [N, C], true class probabilities, if known.

    Raises:
        ValueError: A number is not finite.
    """
    return Splits(
        inputs=_standardised_inputs(inputs),
        targets={name: one_hot(label.long(), classes).float() for name, label in labels.items()},
        task="classification",
        target_scale=1.0,
        posterior={name: rows.float() for name, rows in (posterior or {}).items()},
    )


def multilabel(
    inputs: dict[str, Tensor],
    targets: dict[str, Tensor],
    *,
    posterior: dict[str, Tensor] | None = None,
) -> Splits:
    """Make splits of a set whose examples have any number of labels (`Data.is_multilabel`).

    Targets [N, C] are 1 for each label that holds, else 0. As for `classification` otherwise.
    """
    return Splits(
        inputs=_standardised_inputs(inputs),
        targets={name: rows.float() for name, rows in targets.items()},
        task="classification",
        target_scale=1.0,
        posterior={name: rows.float() for name, rows in (posterior or {}).items()},
    )


def regression(inputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Splits:
    """Make splits of a regression set from raw inputs and targets [N, 1], both in float64.

    As for `classification` otherwise.
    """
    _refuse_not_finite(targets, "targets")
    scaled, scale = standardised(targets)
    return Splits(
        inputs=_standardised_inputs(inputs),
        targets=scaled,
        task="regression",
        target_scale=float(scale[0]),
    )
