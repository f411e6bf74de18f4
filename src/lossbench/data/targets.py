"""What a loss is fed in training: sampled labels, or the distribution they are drawn from.

Validation and test keep their sampled labels, so that both kinds are judged alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from lossbench.data.splits import Splits


def sampled(splits: Splits) -> Splits:
    """Leave the targets as they are: one-hot labels, or numbers."""
    return splits


def distribution(splits: Splits) -> Splits:
    """Put the true posterior in place of the training labels; ValueError where it is unknown."""
    if "train" not in splits.posterior:
        raise ValueError(
            "data.targets is 'distribution', and the true distribution of these labels is not "
            "known: use data.targets=sampled, or data=gaussian_mixture, two_moons, "
            "finite_support or markov_text"
        )
    return dataclasses.replace(
        splits, targets={**splits.targets, "train": splits.posterior["train"]}
    )


TARGETS: dict[str, Callable[[Splits], Splits]] = {"sampled": sampled, "distribution": distribution}
