"""Training targets: sampled labels, their distribution, or the probabilities of a teacher.

Validation and test keep their sampled labels, so that runs with any targets are judged alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lossbench.data.splits import Splits, dense


def sampled(splits: Splits) -> Splits:
    """Return the splits unchanged: targets are one-hot labels, or numbers."""
    return splits


def distribution(splits: Splits) -> Splits:
    """Replace the training labels by the true posterior; ValueError if the posterior is unknown."""
    if "train" not in splits.posterior:
        raise ValueError(
            "data.targets is 'distribution', and the true distribution of these labels is not "
            "known: use data.targets=sampled, or data=gaussian_mixture, two_moons, "
            "finite_support or markov_text"
        )
    return taught(splits, splits.posterior)


def teacher(splits: Splits) -> Splits:
    """Placeholder targets; `taught` replaces them with the teacher's probabilities.

    The placeholders are the labels as distributions, [N, C] or [N, T, C]. A teacher is trained
    only when a run needs the probabilities.
    """
    distributions = {}
    for split, targets in splits.targets.items():
        rows = dense(targets[None], classes=splits.outputs, dtype=torch.float32)[0]
        distributions[split] = rows.view(*splits.label_shape(split), splits.outputs)
    return taught(splits, distributions)


def taught(splits: Splits, distributions: Mapping[str, Tensor]) -> Splits:
    """Replace the training targets by distributions.

    Args:
        splits: Splits with labels, which validation and test keep.
        distributions: Class probabilities by split, [N, C], or [N, T, C] for sequences.
    """
    targets = {**splits.targets, "train": distributions["train"]}
    return dataclasses.replace(splits, targets=targets, distributions={**distributions})


TARGETS: dict[str, Callable[[Splits], Splits]] = {
    "sampled": sampled,
    "distribution": distribution,
    "teacher": teacher,
}
