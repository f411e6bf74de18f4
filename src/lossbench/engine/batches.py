"""The batches of a pack, drawn before training begins: rows, augmentation, and who reads which."""

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
    """The inputs of a batch, held once for each seed.

    Attributes:
        inputs: [S, B, ...].
        seed_index: Which of the S each member has, [k].
        order: The same as numbers.
    """

    inputs: Tensor
    seed_index: Tensor
    order: list[int]

    @property
    def all(self) -> Tensor:
        """Of every member, [k, B, ...]."""
        is_each_once = self.order == [*range(len(self.inputs))]
        return self.inputs if is_each_once else self.inputs.index_select(0, self.seed_index)

    def of(self, members: slice) -> Tensor:
        """Of neighbours, [n, B, ...]; on the CPU no copy where they are of one seed or of a row.

        Elsewhere always one: kernels are chosen by how tensors lie, and bits with them.
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
    """The batches of K members of S seeds, at every step.

    Attributes:
        run: Any of the pack: its augmentation and precision are used.
        inputs, targets: Of the training split, [S, N, ...].
        outputs: C.
        positions: Targets of an example, T of sequences, else 1.
        rows: Rows of the training split by step, [S, steps, B].
        words: Random numbers of the augmentation, [S, steps, B, WORDS]; None where there is none.
        seed_index: Which of the S seeds each member has, [K].
        order: The same as numbers.
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
        """Examples of a batch, B."""
        return self.rows.shape[-1]

    @cached_property
    def _seeds(self) -> Tensor:
        return torch.arange(len(self.rows), device=self.rows.device)

    def rows_at(self, clock: Tensor) -> Tensor:
        """Rows of the training split that the batches of a step [1] are made of, [S, B]."""
        return self.rows.index_select(1, clock)[:, 0]

    def numbers_at(self, clock: Tensor) -> Tensor:
        """Numbers of the training targets in the batch of a step [1]: [S, B], or [S, B T]."""
        places = torch.arange(self.positions, device=clock.device)
        return (self.rows_at(clock)[..., None] * self.positions + places).flatten(1)

    def dense(self, targets: Tensor) -> Tensor:
        """Targets [k, B, ...] of members as losses take them: [k, B, C], or [k, B T, C]."""
        return dense(targets, classes=self.outputs, dtype=PRECISIONS[self.run.precision])

    def at(self, clock: Tensor, members: slice = EVERYONE) -> tuple[Batch, Tensor]:
        """Inputs and targets [k, B, C] of a step [1], of some members; see `dense`."""
        rows, places, order = self.rows_at(clock), self.seed_index[members], self.order[members]
        target = self.dense(_rows_of(self.targets, places, rows[places]))
        # Once for each seed, but a member alone does not wait for the seeds of others.
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
    """Rows [K, B] of values [S, N, ...], each of the seed at its place [K]: [K, B, ...]."""
    if values.stride(0) == 0 or len(values) == 1:
        chosen = values[0].index_select(0, rows.flatten())
    else:
        starts = seeds[:, None] * values.shape[1]
        chosen = values.flatten(0, 1).index_select(0, (rows + starts).flatten())
    return chosen.view(*rows.shape, *values.shape[2:])


def batch_indices(seed: int, examples: int, steps: int, batch_size: int) -> Tensor:
    """Rows of each step's batch, [T, B]: permutations of all rows cut into batches.

    Args:
        seed: Block of the paired design.
        examples: Rows of the training split.
        steps: T.
        batch_size: B; the rest of a permutation is dropped.

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
    """Random numbers of the augmentation as `words`, [T, B, WORDS]; empty where there is none."""
    if run.augmentation.fn == "none":
        return {}
    words = draw_words(stream(seed, "augmentation"), run.steps * run.batch_size)
    return {"words": words.view(run.steps, run.batch_size, WORDS)}
