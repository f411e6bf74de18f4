"""Batches of a pack, drawn before training: rows, augmentation, and the seed of each member."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lossbench.data.augmentation import AUGMENTATIONS, WORDS, draw_words
from lossbench.data.splits import dense
from lossbench.fingerprints import stream
from lossbench.question import PRECISIONS, Run

EVERYONE = slice(None)


@dataclass(frozen=True)
class Batch:
    """Inputs of the batches of one step, stored once for each seed.

    Attributes:
        inputs: Inputs by seed, [S, B, ...].
        seed_index: Index of each member's seed among the S seeds, [k].
        order: The values of `seed_index` as integers.
    """

    inputs: Tensor
    seed_index: Tensor
    order: list[int]

    @property
    def all(self) -> Tensor:
        """Inputs of every member, [k, B, ...]."""
        is_each_once = self.order == [*range(len(self.inputs))]
        return self.inputs if is_each_once else self.inputs.index_select(0, self.seed_index)

    def of(self, members: slice) -> Tensor:
        """Inputs of adjacent members, [n, B, ...]; on the CPU a view if possible, else a copy.

        On other devices always a copy, because kernels and bits depend on the memory layout.
        """
        order = self.order[members]
        first, count = order[0], len(order)
        if self.inputs.device.type == "cpu":
            if order == [first] * count:
                return self.inputs[first].expand(count, *self.inputs.shape[1:])
            if order == [*range(first, first + count)]:
                return self.inputs[first : first + count]
        return self.inputs.index_select(0, self.seed_index[members])


@dataclass(frozen=True)
class Batches:
    """Batches of K members with S seeds, at every step.

    Attributes:
        run: Any run of the pack, whose augmentation and precision are used.
        inputs, targets: Training split by seed, [S, N, ...].
        outputs: Number of outputs of dense targets, C.
        positions: Targets of an example: T for sequences, else 1.
        rows: Rows of the training split by step, [S, steps, B].
        words: Random numbers of the augmentation, [S, steps, B, WORDS]; None without augmentation.
        seed_index: Index of each member's seed among the S seeds, [K].
        order: The values of `seed_index` as integers.
    """

    run: Run
    inputs: Tensor
    targets: Tensor
    outputs: int
    positions: int
    rows: Tensor
    words: Tensor | None
    seed_index: Tensor
    order: list[int]

    @property
    def size(self) -> int:
        """Number of examples of a batch, B."""
        return self.rows.shape[-1]

    @cached_property
    def _seeds(self) -> Tensor:
        return torch.arange(len(self.rows), device=self.rows.device)

    def rows_at(self, clock: Tensor) -> Tensor:
        """Rows of the training split in the batches of a step [1]: [S, B]."""
        return self.rows.index_select(1, clock)[:, 0]

    def numbers_at(self, clock: Tensor) -> Tensor:
        """Indices of the training targets in the batches of a step [1]: [S, B], or [S, B T]."""
        places = torch.arange(self.positions, device=clock.device)
        return (self.rows_at(clock)[..., None] * self.positions + places).flatten(1)

    def dense(self, targets: Tensor) -> Tensor:
        """Targets [k, B, ...] in the dense form for losses: [k, B, C], or [k, B T, C]."""
        return dense(targets, classes=self.outputs, dtype=PRECISIONS[self.run.precision])

    def at(self, clock: Tensor, members: slice = EVERYONE) -> tuple[Batch, Tensor]:
        """Inputs and dense targets [k, B, C] of some members at a step [1]."""
        rows, places, order = self.rows_at(clock), self.seed_index[members], self.order[members]
        target = self.dense(_rows_of(self.targets, places, rows[places]))
        # Inputs are made once for each seed; for a single member, only for its own seed.
        seeds = self._seeds
        if len(order) == 1:
            rows, seeds, places, order = rows[places], places, torch.zeros_like(places), [0]
        inputs = _rows_of(self.inputs, seeds, rows)
        if self.words is not None:
            augmentation, words = self.run.augmentation, self.words.index_select(1, clock)[:, 0]
            augmented = AUGMENTATIONS[augmentation.fn]
            inputs = augmented(inputs, words[seeds], **augmentation.params)
        return Batch(inputs, places, order), target


def _rows_of(values: Tensor, seeds: Tensor, rows: Tensor) -> Tensor:
    """Values [K, B, ...] at rows [K, B] of values [S, N, ...]; `seeds` [K] are indices below S."""
    if values.stride(0) == 0 or len(values) == 1:
        chosen = values[0].index_select(0, rows.flatten())
    else:
        starts = seeds[:, None] * values.shape[1]
        chosen = values.flatten(0, 1).index_select(0, (rows + starts).flatten())
    return chosen.view(*rows.shape, *values.shape[2:])


def batch_indices(seed: int, examples: int, steps: int, batch_size: int) -> Tensor:
    """Rows of each step's batch, [steps, batch_size]: permutations of all rows cut into batches.

    The remainder of a permutation of all `examples` rows is dropped.

    Raises:
        ValueError: B is larger than the training split.
    """
    if batch_size > examples:
        raise ValueError(
            f"batch_size is {batch_size}, the training split has {examples} examples: "
            f"use {examples} or less"
        )
    draw = stream(seed, "batches")
    per_epoch = examples // batch_size
    epochs = -(-steps // per_epoch)
    rows = [
        torch.randperm(examples, generator=draw)[: per_epoch * batch_size] for _ in range(epochs)
    ]
    return torch.cat(rows).view(-1, batch_size)[:steps]


def augmentation_words(run: Run, seed: int) -> Mapping[str, Tensor]:
    """Random numbers of the augmentation as `words`, [T, B, WORDS]; empty without augmentation."""
    if run.augmentation.fn == "none":
        return {}
    words = draw_words(stream(seed, "augmentation"), run.steps * run.batch_size)
    return {"words": words.view(run.steps, run.batch_size, WORDS)}
