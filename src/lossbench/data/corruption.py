"""Corruptions of training and validation data before any loss sees them; test stays clean.

Label noise and outliers change targets of train and validation, and keep the splits with the old
targets as `Splits.uncorrupted`. Imbalance and few_samples drop training rows only. All corruptions
draw from `draw`, the seed's corruption stream, independently of the amount of corruption: a target
that changes at a small rate changes at a large rate too, into the same value. A corruption raises
ValueError if a parameter is out of range, or if the corruption does not serve the set's task.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lossbench.data.splits import Splits
from lossbench.fingerprints import stream

IMBALANCES = ("exponential", "step")

DROPPING = ("imbalance", "few_samples")
"""Corruptions that drop rows: the split of one seed may have too few, that of another enough."""


def none(splits: Splits, *, draw: torch.Generator) -> Splits:
    """Return the splits unchanged."""
    return splits


# ---- label noise ---------------------------------------------------------------------------------


def symmetric(splits: Splits, *, draw: torch.Generator, rate: float = 0.2) -> Splits:
    """Change each label with probability `rate`; all other classes are equally likely."""
    _check_labels(splits, "symmetric", rate)
    classes = splits.outputs

    def flip(label: Tensor) -> Tensor:
        is_flipped = torch.rand(len(label), generator=draw) < rate
        other = torch.randint(1, classes, (len(label),), generator=draw)
        shift = torch.where(is_flipped, other, 0)
        return (label + shift) % classes

    return _with_labels(splits, flip)


def pairflip(splits: Splits, *, draw: torch.Generator, rate: float = 0.2) -> Splits:
    """Replace each label by the next class with probability `rate`; the first follows the last.

    At a rate above 0.5 the wrong label is likelier than the right one.

    Source:
        Han et al. 2018, NeurIPS (Co-teaching).
    """
    _check_labels(splits, "pairflip", rate)
    classes = splits.outputs
    return _flip_to_partners(splits, (torch.arange(classes) + 1) % classes, rate, draw)


def asymmetric(
    splits: Splits, *, draw: torch.Generator, confusions: Mapping[int, int], rate: float = 0.2
) -> Splits:
    """Replace each label, with probability `rate`, by the class that people confuse its class with.

    Classes that nobody confuses keep their labels, so the share of flipped examples is `rate`
    times the share of examples whose class is confused.

    Args:
        splits: A classification set.
        draw: The seed's corruption stream.
        confusions: Confused class by class, from the row of the data set (`Data.confusions`).
        rate: Probability of a flip of an example of a class that is confused, 0 to 1.

    Source:
        Patrini et al. 2017, CVPR, for flips between similar classes.
    """
    _check_labels(splits, "asymmetric", rate)
    if not confusions:
        raise ValueError(
            "asymmetric label noise needs to know which classes are confused, and the row of this "
            "data does not say: use data.corruption.name=pairflip"
        )
    partner = torch.arange(splits.outputs)
    for label, other in confusions.items():
        partner[label] = other
    return _flip_to_partners(splits, partner, rate, draw)


def instance(splits: Splits, *, draw: torch.Generator, rate: float = 0.2) -> Splits:
    """Flip labels of ambiguous examples into the classes that the examples resemble.

    With q the class probabilities of an example and y its label, the flip has probability
    min(1, s (1 - q[y])), and goes to class c != y with probability q[c] / (1 - q[y]). The scale s
    is chosen so that the mean flip probability of the split is `rate`. q is the true posterior if
    known, else the probabilities of a teacher: ridge-penalised multinomial logistic regression
    fitted on the clean labels of the first `teacher.TEACHER_ROWS` training examples.

    Args:
        splits: A classification set.
        draw: The seed's corruption stream.
        rate: Mean probability of a flip in train and in validation, 0 to 1.

    Raises:
        ValueError: Too few examples are ambiguous for this rate.

    Source:
        After Algan and Ulusoy 2020, arXiv 2003.10471, who use the softmax of a teacher network.
    """
    _check_labels(splits, "instance", rate)
    classes, noisy = splits.outputs, {}
    for split in ("train", "validation"):
        label = _labels(splits.targets[split])
        known = splits.label_probabilities[split].double().flatten(0, -2)
        others = known.scatter(-1, label[:, None], 0.0)
        doubt = others.sum(-1)
        chance, place = torch.rand(2, len(label), generator=draw, dtype=torch.float64)
        drawn = (others.cumsum(-1) <= (place * doubt)[:, None]).sum(-1)
        drawn = drawn.clamp(max=classes - 1)
        is_flipped = chance < _flip_probabilities(doubt, rate)
        flipped = torch.where(is_flipped, drawn, label)
        noisy[split] = _targets_of(flipped, like=splits.targets[split])
    return dataclasses.replace(splits, targets=splits.targets | noisy, uncorrupted=splits)


def _flip_probabilities(doubt: Tensor, rate: float) -> Tensor:
    """Compute min(1, s doubt) [N], with s such that the mean is `rate`; s is exact, by sorting."""
    ordered = doubt.sort(descending=True).values
    count, below = len(doubt), ordered.flip(0).cumsum(0).flip(0)
    # If the k largest are 1, the others are proportional to doubt and sum to N rate - k.
    scale = (count * rate - torch.arange(count, dtype=doubt.dtype)) / below
    fits = (scale * ordered <= 1.0 + 1e-12) & (scale >= 0.0)
    if not fits.any():
        raise ValueError(
            f"instance label noise of rate {rate}: {int((doubt > 0).sum())} of {count} examples "
            "can be mistaken at all, use a smaller rate"
        )
    return (scale[fits.nonzero()[0, 0]] * doubt).clamp(max=1.0)


def _flip_to_partners(
    splits: Splits, partner: Tensor, rate: float, draw: torch.Generator
) -> Splits:
    """Flip each label with probability `rate` to the partner [C] of its class."""

    def flip(label: Tensor) -> Tensor:
        is_flipped = torch.rand(len(label), generator=draw) < rate
        return torch.where(is_flipped, partner[label], label)

    return _with_labels(splits, flip)


def _labels(targets: Tensor) -> Tensor:
    """Labels of all examples, or of all positions of sequences, flattened to [M]."""
    return targets.argmax(-1) if targets.is_floating_point() else targets.flatten()


def _targets_of(label: Tensor, *, like: Tensor) -> Tensor:
    """Convert labels [M] to targets with the dtype and shape of `like`; one-hot if floating."""
    if not like.is_floating_point():
        return label.view_as(like)
    return torch.nn.functional.one_hot(label, like.shape[-1]).to(like.dtype)


def _with_labels(splits: Splits, change: Callable[[Tensor], Tensor]) -> Splits:
    """Apply `change` to the labels [M] of train and of validation."""
    return _with_targets(
        splits, lambda targets: _targets_of(change(_labels(targets)), like=targets)
    )


# ---- outliers ------------------------------------------------------------------------------------


def outliers(
    splits: Splits,
    *,
    draw: torch.Generator,
    rate: float = 0.1,
    size: float = 10.0,
    is_one_sided: bool = False,
) -> Splits:
    """Move targets far away with probability `rate`.

    Args:
        splits: A regression set.
        draw: The seed's corruption stream.
        rate: Probability of a move, 0 to 1.
        size: Length of the move in standard deviations of the clean training target; positive.
        is_one_sided: Whether all moves go upwards; otherwise up and down are equally likely. Set
            to true if targets may not be negative.

    Source:
        Tukey 1960, the contaminated normal. One-sided moves bias the mean too.
    """
    _check_rate("outliers", rate)
    if splits.task != "regression":
        raise ValueError("outliers on a classification task: use data.corruption.name=symmetric")
    if not size > 0:
        raise ValueError(f"outliers of size {size}: use a positive number")
    scale = float(splits.targets["train"].double().std(0, correction=0).mean())
    chances = torch.tensor([[rate], [0.0 if is_one_sided else 0.5]])

    def move(targets: Tensor) -> Tensor:
        is_moved, is_down = torch.rand(2, len(targets), generator=draw) < chances
        step = size * scale * torch.where(is_down, -1.0, 1.0)
        return targets + torch.where(is_moved, step, 0.0)[:, None].to(targets.dtype)

    return _with_targets(splits, move)


# ---- fewer rows ----------------------------------------------------------------------------------


def imbalance(
    splits: Splits,
    *,
    draw: torch.Generator,
    kind: str = "exponential",
    ratio: float = 10.0,
    largest: float = 0.75,
) -> Splits:
    """Drop training rows until later classes are rarer than earlier ones.

    Class c of C keeps n ratio^(-c / (C - 1)) rows ("exponential"), or n in the first half of the
    classes and n / ratio in the second ("step"), where n = largest N / C of N training rows. So
    the counts are the same for every seed. The rows kept at a large ratio are a subset of the rows
    kept at a smaller ratio.

    Args:
        splits: A classification set.
        draw: The seed's corruption stream.
        kind: "exponential" or "step".
        ratio: Rows of the first class divided by rows of the last class; 1 or more.
        largest: Rows of the first class as a share of N / C. The default is below 1 because the
            classes of a split drawn by the seed are not equally frequent.

    Raises:
        ValueError: A class has fewer rows than it should keep, or the rows are sequences, which
            have no class.

    Source:
        Cui et al. 2019, CVPR (exponential); Buda, Maki and Mazurowski 2018, Neural Networks (step).
    """
    _check_labels(splits, "imbalance", 0.0)
    if kind not in IMBALANCES or not ratio >= 1 or not 0 < largest <= 1:
        raise ValueError(
            f"imbalance of kind {kind!r}, ratio {ratio}, largest {largest}: use kind "
            f"{' or '.join(IMBALANCES)}, a ratio of 1 or more, largest above 0 up to 1"
        )
    if splits.vocabulary:
        raise ValueError(
            "imbalance on sequences, whose every position has a class: use "
            "data.corruption.name=few_samples"
        )
    examples, classes = splits.targets["train"].shape
    fall = torch.arange(classes).double() / max(1, classes - 1)
    fall = fall if kind == "exponential" else (fall > 0.5).double()
    counts = (largest * examples / classes * ratio**-fall).round().clamp(min=1).long()
    label, rank = _class_and_rank(splits, draw)
    present = torch.bincount(label, minlength=classes)
    if (present < counts).any():
        short = int((present < counts).nonzero()[0, 0])
        raise ValueError(
            f"imbalance wants {int(counts[short])} rows of class {short}, which has "
            f"{int(present[short])}: use a smaller data.corruption.params.largest than {largest}"
        )
    return splits.with_training_rows((rank < counts[label]).nonzero()[:, 0])


def few_samples(splits: Splits, *, draw: torch.Generator, count: int = 100) -> Splits:
    """Keep `count` training rows, equally many of each class as far as a class has enough rows.

    The rows kept at a small `count` are a subset of the rows kept at a larger `count`.
    """
    examples = len(splits.targets["train"])
    if not 1 <= count <= examples:
        raise ValueError(f"few_samples of count {count}: use 1 to {examples}")
    _, rank = _class_and_rank(splits, draw)
    # The first row of every class comes before any second row; among equal ranks `lot` decides.
    lot = torch.randperm(examples, generator=draw)
    return splits.with_training_rows((rank * examples + lot).argsort()[:count].sort().values)


def _class_and_rank(splits: Splits, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Class of each training row [N], and the row's rank in a random order of its class.

    All rows of a regression set, and of sequences, count as one class.
    """
    targets = splits.targets["train"]
    has_classes = splits.task == "classification" and not splits.vocabulary
    label = targets.argmax(-1) if has_classes else torch.zeros(len(targets), dtype=torch.int64)
    order = torch.randperm(len(label), generator=draw)
    by_class = order[label[order].argsort(stable=True)]
    counts = torch.bincount(label)
    first = (counts.cumsum(0) - counts)[label[by_class]]
    return label, torch.empty_like(label).scatter(0, by_class, torch.arange(len(label)) - first)


CORRUPTIONS: dict[str, Callable[..., Splits]] = {
    function.__name__: function
    for function in (
        none, symmetric, pairflip, asymmetric, instance, outliers, imbalance, few_samples,
    )
}  # fmt: skip


def corrupted(
    splits: Splits,
    *,
    name: str,
    seed: int,
    params: Mapping[str, object],
    confusions: Mapping[int, int],
) -> Splits:
    """Apply one of `CORRUPTIONS` to splits; the result is the same for every loss of the seed.

    `confusions` are those of the data set, for a corruption with that parameter.
    """
    if takes_confusions(name):
        params = {**params, "confusions": confusions}
    return CORRUPTIONS[name](splits, draw=stream(seed, "corruption"), **params)


def takes_confusions(name: str) -> bool:
    """Whether a corruption depends on the confusions of a data set."""
    return "confusions" in inspect.signature(CORRUPTIONS[name]).parameters


def realised(splits: Splits) -> dict[str, float | str]:
    """Measured corruption of the training targets, as columns of the table `runs`.

    `corrupted_share` is the share of training targets that changed. `transition` is the matrix from
    the clean label (row) to the corrupted label (column), as JSON of shares rounded to 6 digits;
    empty without label noise.
    """
    if "train" not in splits.clean:
        return {"corrupted_share": 0.0, "transition": ""}
    clean, targets = splits.clean["train"], splits.targets["train"]
    if splits.task != "classification":
        share = float((clean != targets).any(-1).double().mean())
        return {"corrupted_share": share, "transition": ""}
    before, after = _labels(clean), _labels(targets)
    share, classes = float((before != after).double().mean()), splits.outputs
    counts = torch.bincount(classes * before + after, minlength=classes**2)
    counts = counts.view(classes, classes).double()
    rows = counts / counts.sum(-1, keepdim=True).clamp(min=1.0)
    matrix = [[round(cell, 6) for cell in row] for row in rows.tolist()]
    return {"corrupted_share": share, "transition": json.dumps(matrix)}


def _check_rate(name: str, rate: float) -> None:
    if not 0 <= rate <= 1:
        raise ValueError(f"{name} of rate {rate}: use 0 to 1")


def _check_labels(splits: Splits, name: str, rate: float) -> None:
    _check_rate(name, rate)
    if splits.task != "classification":
        raise ValueError(f"{name} on a regression task: use corruption none or outliers")


def _with_targets(splits: Splits, change: Callable[[Tensor], Tensor]) -> Splits:
    """Apply `change` to the targets of train and of validation."""
    targets = {
        split: rows if split == "test" else change(rows) for split, rows in splits.targets.items()
    }
    return dataclasses.replace(splits, targets=targets, uncorrupted=splits)
