"""What is done to training and validation targets before any loss sees them; test stays clean."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from lossbench.data.splits import Splits
from lossbench.pairing import stream


def none(targets: Tensor, *, draw: torch.Generator) -> Tensor:
    """Leave the targets as they are."""
    return targets


def symmetric(targets: Tensor, *, draw: torch.Generator, rate: float = 0.2) -> Tensor:
    """Give a share of the examples another label, each other one equally likely.

    Args:
        targets: One-hot labels, [N, C].
        draw: The seed's corruption stream.
        rate: Probability of a flip, 0 to 1.

    Raises:
        ValueError: The rate is no probability, or the targets are no labels.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"symmetric label noise of rate {rate}: use 0 to 1")
    if targets.shape[-1] < 2:
        raise ValueError("symmetric label noise on a regression task: use corruption none")
    count, classes = targets.shape
    flipped = torch.rand(count, generator=draw) < rate
    shift = torch.where(flipped, torch.randint(1, classes, (count,), generator=draw), 0)
    labels = (targets.argmax(-1) + shift) % classes
    return torch.nn.functional.one_hot(labels, classes).to(targets.dtype)


CORRUPTIONS: dict[str, Callable[..., Tensor]] = {"none": none, "symmetric": symmetric}


def corrupted(splits: Splits, *, name: str, seed: int, params: dict[str, object]) -> Splits:
    """Splits with corrupted train and validation targets, the same for every loss of the seed."""
    draw = stream(seed, "corruption")
    targets = {
        split: rows if split == "test" else CORRUPTIONS[name](rows, draw=draw, **params)
        for split, rows in splits.targets.items()
    }
    return dataclasses.replace(splits, targets=targets)
