"""What is done to training and validation targets before any loss sees them; test stays clean."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from lossbench.data.splits import Splits
from lossbench.pairing import stream


def none(splits: Splits, *, draw: torch.Generator) -> Splits:
    """Leave everything as it is."""
    return splits


def symmetric(splits: Splits, *, draw: torch.Generator, rate: float = 0.2) -> Splits:
    """Give a share of the examples another label, each other one equally likely.

    Args:
        splits: A classification set.
        draw: The seed's corruption stream.
        rate: Probability of a flip, 0 to 1.

    Raises:
        ValueError: The rate is no probability, or the targets are no labels.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"symmetric label noise of rate {rate}: use 0 to 1")
    if splits.task != "classification":
        raise ValueError("symmetric label noise on a regression task: use corruption none")

    def flipped(targets: Tensor) -> Tensor:
        count, classes = targets.shape
        is_flipped = torch.rand(count, generator=draw) < rate
        shift = torch.where(is_flipped, torch.randint(1, classes, (count,), generator=draw), 0)
        labels = (targets.argmax(-1) + shift) % classes
        return torch.nn.functional.one_hot(labels, classes).to(targets.dtype)

    return _with_targets(splits, flipped)


CORRUPTIONS: dict[str, Callable[..., Splits]] = {"none": none, "symmetric": symmetric}


def corrupted(splits: Splits, *, name: str, seed: int, params: dict[str, object]) -> Splits:
    """Splits with corrupted train and validation targets, the same for every loss of the seed."""
    draw = stream(seed, "corruption")
    return CORRUPTIONS[name](splits, draw=draw, **params)


def _with_targets(splits: Splits, change: Callable[[Tensor], Tensor]) -> Splits:
    """Splits whose train and validation targets are changed, and the old ones kept as `clean`."""
    targets = {
        split: rows if split == "test" else change(rows) for split, rows in splits.targets.items()
    }
    return dataclasses.replace(splits, targets=targets, clean=splits.targets)
