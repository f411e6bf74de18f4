"""The shape of data: train, validation and test as tensors, and how rows come into them."""

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

NO_PARAMS: Mapping[str, Any] = MappingProxyType({})


class Tokens(NamedTuple):
    """Shape of one sequence for a model: T positions, each with one of V tokens."""

    positions: int
    vocabulary: int


@dataclass(frozen=True)
class Splits:
    """A data set as one seed sees it.

    An example of sequences is T positions, each with a token that goes in and a label: the token
    that comes next. All T count alike: none is padding, and none is ignored.

    Attributes:
        inputs: By split, standardised by the training split: [N, F], images as [N, channels,
            height, width]. Of sequences the tokens, [N, T], whole numbers from 0 to V - 1.
        targets: By split, [N, C]: one-hot labels, or real values in training standard deviations.
            Of sequences the labels, [N, T], whole numbers: `dense` makes targets of those of a
            batch. In their place may stand distributions, [N, T, C].
        task: "regression" or "classification".
        target_scale: Standard deviation of the training target in its own unit; 1 for labels.
        posterior: By split, [N, C] or [N, T, C], true class probabilities; empty where nobody knows
            them.
        distributions: By split, of the same shapes, training targets in the place of labels: the
            posterior, or a teacher's probabilities; empty where training is fed labels.
        uncorrupted: The splits before their targets were corrupted; None where they were not.
        vocabulary: Different tokens of sequences, V, which are the C classes of their labels; 0 for
            all other data.
        aside: Training data of a model that precedes the runs; None where none does.
        start: State of that trained model, where runs start from it.
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
        """Targets before they were corrupted, by split; empty where they were not."""
        return {} if self.uncorrupted is None else self.uncorrupted.targets

    @property
    def sizes(self) -> tuple[int | Tokens | tuple[int, ...], int]:
        """Shapes for a model: F, (channels, height, width) of images or `Tokens`, and C."""
        shape = tuple(self.inputs["train"].shape[1:])
        if self.vocabulary:
            return Tokens(shape[0], self.vocabulary), self.outputs
        return shape[0] if len(shape) == 1 else shape, self.outputs

    @property
    def outputs(self) -> int:
        """Numbers of a target, C."""
        return self.vocabulary or self.targets["train"].shape[-1]

    @property
    def positions(self) -> int:
        """Targets of an example, each with an output of its own: T of sequences, else 1."""
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
        """Splits with only these rows of train."""
        parts = {
            name: part | {"train": part["train"][rows]}
            for name in ("inputs", "targets", "posterior", "distributions")
            if (part := getattr(self, name))
        }
        return replace(self, **parts)

    @functools.cached_property
    def label_probabilities(self) -> dict[str, Tensor]:
        """Class probabilities [N, C] by split: the true ones, or else those of a teacher.

        Raises:
            ValueError: Sequences whose posterior nobody knows: the teacher reads numbers.
        """
        if self.vocabulary and not self.posterior:
            raise ValueError(
                "no teacher knows the probabilities of these tokens: use "
                "data.corruption.name=symmetric, or data=markov_text"
            )
        return self.posterior or teacher_probabilities(self.inputs, self.targets["train"])

    @functools.cached_property
    def sha(self) -> str:
        """Fingerprint of everything a run can see: inputs, posterior and targets of all splits."""
        digest = self._hash_of_inputs.copy()
        parts = {"posterior": self.posterior, "targets": self.targets}
        add_tensors(
            digest,
            {f"{part}/{split}": parts[part][split] for part in parts for split in parts[part]},
        )
        return digest.hexdigest()

    @functools.cached_property
    def _hash_of_inputs(self) -> hashlib._Hash:
        """A hash that has read the inputs; seeds that corrupt the same splits read them once."""
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
        """Counted in splits."""
        counts = (len(splits.inputs[split]) for split in SPLITS)
        inputs = tuple(splits.inputs["train"].shape[1:])
        return cls(*counts, inputs=inputs, outputs=splits.outputs)


@dataclass(frozen=True)
class Data:
    """A data set's row.

    Args:
        fn: `fn(*, seed, **params) -> Splits`. One that reads files asks for them with a parameter
            `files: Files` without default.
        task: "regression" or "classification".
        source: Origin of the data.
        licence: Licence of the files, as their distributor states it; empty for generated data.
        drawn: Part that each seed draws anew: "generated" (all of it, test examples too),
            "resplit" (the division into training and validation; test examples are the same for
            every seed, in the same order, as `permuted` gives them) or "fixed" (nothing: the test
            set is the published one; the same tensors are returned for every seed, so that a pack
            holds them once).
        confusions: Classes that people take for each other, by class, for `asymmetric`.
        is_symmetric: Whether noise is symmetric, so that mean, median and the like coincide.
        is_test_clean: Whether test targets are free of the noise that those of train and validation
            carry, so that errors on test are distances to the truth.
        domain: "nonnegative" where targets are counts or the like, not centred; else "real".
        note: What a reader of its results must know, one sentence.
        bar: Measured result of another model on the test split: a run far off is wrong.
        extent: Sizes at default parameters of a set whose files may be missing; None: counted.
        unit: Unit of the target, in the words that follow a number; empty where there is none. A
            mapping by value of the parameter `target` where that chooses the unit.
        content: Hash of examples that stand in no code, as those of a user's table; or a function
            from the data function's parameters to the hash.
        is_multilabel: Whether a target of classification may name any number of classes, each with
            a 1: no softmax serves then, nor does any loss in which classes compete.
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
        """The function's name."""
        return self.fn.__name__

    def unit_of(self, params: Mapping[str, Any]) -> str:
        """Unit of the target at the function's parameters."""
        return self.unit if isinstance(self.unit, str) else self.unit[params["target"]]

    def content_of(self, params: Mapping[str, Any]) -> str:
        """Hash of examples that stand in no code, at the function's parameters."""
        return self.content if isinstance(self.content, str) else self.content(**params)

    def splits(self, seed: int, files: Files, params: Mapping[str, Any] = NO_PARAMS) -> Splits:
        """The data set as one seed sees it; `files` is where its files lie, if it reads any."""
        if "files" in inspect.signature(self.fn).parameters:
            return self.fn(seed=seed, files=files, **params)
        return self.fn(seed=seed, **params)


def problem_of(splits: Any, *, task: str, is_multilabel: bool = False) -> str:
    """Reason why the splits of a data function cannot be trained on; empty where they can.

    Args:
        splits: Result of the data function.
        task: Task of the data's row.
        is_multilabel: Field of the data's row.
    """
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
    """Targets as losses take them, one row for each output of a model: [K, N, C] or [K, N T, C].

    Args:
        targets: Of K members as `Splits` holds them: [K, N, C], or of sequences labels [K, N, T] or
            distributions [K, N, T, C].
        classes: C.
        dtype: Of one-hot labels.
    """
    if not targets.is_floating_point():
        # Not `one_hot`, which on CUDA waits to see the largest label.
        rows = torch.zeros(*targets.shape, classes, dtype=dtype, device=targets.device)
        targets = rows.scatter_(-1, targets[..., None], 1.0)
    return targets.flatten(1, -2)


def set_aside(splits: Splits, *, share: float) -> Splits:
    """Splits without a share of their training examples, which stands in `aside`.

    Which examples is drawn once for all: of an order that a seed has drawn, it is that seed's.

    Args:
        splits: Before any corruption.
        share: From 0 up to below 1; at 0 `aside` has the examples of training themselves.

    Raises:
        ValueError: One of both parts would have no two examples.
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
    """Row indices of each split of `count` rows, 60/20/20.

    Test is drawn once for all, so that no seed trains or chooses on test rows of another, in an
    order that all seeds share; the seed divides the other rows into training and validation.
    """
    ends = [round(count * SHARES[0]), round(count * (SHARES[0] + SHARES[1]))]
    order = torch.randperm(count, generator=stream(0, "split"))
    others, test = order[: ends[1]], order[ends[1] :]
    others = others[torch.randperm(len(others), generator=stream(seed, "split"))]
    return dict(zip(SPLITS, (others[: ends[0]], others[ends[0] :], test), strict=True))


def by_split(values: Tensor, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inputs, targets or labels [N, ...] of each split, by its rows as `permuted` gives them."""
    return {split: values[row] for split, row in rows.items()}


def held_out(count: int, validation: int) -> dict[str, Tensor]:
    """Row indices of training and validation where the test set is a published one.

    Of the `count` rows of the published training set, `validation` are held out: the last ones of
    an order that is drawn once for all, so that every seed has the same.
    """
    order = torch.randperm(count, generator=stream(0, "split"))
    return {"train": order[: count - validation], "validation": order[count - validation :]}


def standardised(by_split: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """Columns [N, F] by split, minus the training mean, over the training standard deviation.

    Returns them in float32, and the standard deviations [F]; constant columns keep their scale.
    """
    mean = by_split["train"].mean(0)
    scale = by_split["train"].std(0, correction=0)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return {name: ((rows - mean) / scale).float() for name, rows in by_split.items()}, scale


def standardised_images(by_split: dict[str, Tensor]) -> dict[str, Tensor]:
    """Images [N, channels, height, width], each channel standardised by the training split.

    They are bytes or floats and become float32; a constant channel keeps its scale.
    """
    channels = [channel.double() for channel in by_split["train"].unbind(1)]
    mean = torch.stack([channel.mean() for channel in channels])
    scale = torch.stack([channel.std(correction=0) for channel in channels])
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    mean, scale = (part.float()[:, None, None] for part in (mean, scale))
    # In place on copies of its own: a set may fill much of a laptop's memory.
    copies = {name: rows.to(torch.float32, copy=True) for name, rows in by_split.items()}
    return {name: rows.sub_(mean).div_(scale) for name, rows in copies.items()}


def _refuse_not_finite(by_split: dict[str, Tensor], what: str) -> None:
    """Refuse numbers that are missing: training would end in NaN and look like a diverged run."""
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
    """Splits of a classification set from raw inputs and integer labels.

    Args:
        inputs: By split, [N, F] in float64, or images [N, channels, height, width].
        labels: By split, [N], from 0 to C - 1.
        classes: C.
        posterior: By split, [N, C], true class probabilities, where they are known.

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
    """Splits of a set whose examples have any number of labels; its row says `is_multilabel`.

    Args:
        inputs: By split, [N, F] in float64, or images [N, channels, height, width].
        targets: By split, [N, C], 1 for each label that holds, else 0.
        posterior: By split, [N, C], the true probability of each label, where it is known.

    Raises:
        ValueError: A number is not finite.
    """
    return Splits(
        inputs=_standardised_inputs(inputs),
        targets={name: rows.float() for name, rows in targets.items()},
        task="classification",
        target_scale=1.0,
        posterior={name: rows.float() for name, rows in (posterior or {}).items()},
    )


def regression(inputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Splits:
    """Splits of a regression set from raw inputs and targets.

    Args:
        inputs: By split, [N, F] in float64, or images [N, channels, height, width].
        targets: By split, [N, 1] in float64, in their own unit.

    Raises:
        ValueError: A number is not finite.
    """
    _refuse_not_finite(targets, "targets")
    scaled, scale = standardised(targets)
    return Splits(
        inputs=_standardised_inputs(inputs),
        targets=scaled,
        task="regression",
        target_scale=float(scale[0]),
    )
