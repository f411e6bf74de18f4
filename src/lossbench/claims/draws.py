"""Outputs and targets, in float64, at which losses are measured.

Every purpose has a generator of its own, so no measurement changes the draws of another.
"""

from __future__ import annotations

from zlib import crc32

import torch
from torch import Tensor
from torch.nn import functional

from lossbench.losses.spec import Loss

UNDECIDED = {
    2: ((0.6, 0.4), (0.5005, 0.4995)),
    4: ((0.40, 0.35, 0.15, 0.10), (0.26, 0.25, 0.25, 0.24)),
    10: ((0.19, 0.18, 0.16, 0.13, 0.10, 0.08, 0.06, 0.05, 0.03, 0.02), (0.109, *9 * (0.099,))),
}
"""Label distributions, by number of classes, that tell calibrated losses from other losses."""

DRAWN = 6
"""Number of `label_distributions` that are drawn at random; they come first."""


def seeded(purpose: str, outputs: int) -> torch.Generator:
    """Generator whose seed depends only on the purpose and the number of outputs."""
    return torch.Generator().manual_seed(crc32(f"{purpose}, {outputs} outputs".encode()))


def normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw standard normal numbers."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def dense_targets(loss: Loss, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Draw targets uniformly on the simplex; for regression from 0 to 4, valid also as counts."""
    if loss.task == "regression":
        return 4.0 * torch.rand(shape, generator=generator, dtype=torch.float64)
    draws = torch.empty(shape, dtype=torch.float64).exponential_(generator=generator)
    return draws / draws.sum(-1, keepdim=True)


def hard_targets(loss: Loss, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Draw hard labels; for regression the targets of `dense_targets`."""
    target = dense_targets(loss, shape, generator)
    if loss.task == "regression":
        return target
    return functional.one_hot(target.argmax(-1), shape[-1]).double()


def raw_outputs(loss: Loss, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Draw standard normal outputs, [M, W], for targets of that shape, [M, C]."""
    return normal((shape[0], loss.outputs_per_target * shape[1]), generator)


def scattered_pairs(
    loss: Loss, generator: torch.Generator, outputs: int, *, count: int = 400
) -> tuple[Tensor, Tensor]:
    """Draw outputs on two scales, and targets; in classification half the targets are hard labels.

    Returns outputs, [M, W], and targets, [M, C], for M = `count`, a multiple of four.
    """
    shape = (count, outputs)
    scale = torch.tensor([2.0, 2.0, 6.0, 6.0], dtype=torch.float64).repeat(count // 4)
    is_hard = torch.tensor([True, False]).repeat(count // 2)
    output = scale[:, None] * raw_outputs(loss, shape, generator)
    hard, dense = hard_targets(loss, shape, generator), dense_targets(loss, shape, generator)
    return output, hard.where(is_hard[:, None], dense)


def padded(target: Tensor, loss: Loss) -> Tensor:
    """Numbers per target, [..., C], extended to all outputs, [..., W], with zeros."""
    return functional.pad(target, (0, (loss.outputs_per_target - 1) * target.shape[-1]))


def skewed_points(outputs: int, generator: torch.Generator) -> Tensor:
    """Equally likely points, [N, C]: exponential quantiles, in another order for each output."""
    levels = (torch.arange(255, dtype=torch.float64) + 0.5) / 255
    quantiles = -torch.log1p(-levels)
    orders = [torch.randperm(255, generator=generator) for _ in range(outputs)]
    return torch.stack([(1 + i) * quantiles[order] for i, order in enumerate(orders)], -1)


def label_distributions(outputs: int) -> Tensor:
    """Label distributions, [M, C]: `DRAWN` random ones, `UNDECIDED`, a majority, one certain."""
    generator = seeded("label distributions", outputs)
    drawn = torch.empty((DRAWN, outputs), dtype=torch.float64).exponential_(generator=generator)
    undecided = torch.tensor(UNDECIDED[outputs], dtype=torch.float64)
    certain = functional.one_hot(torch.tensor([0]), outputs).double()
    majority = 0.7 * certain + 0.3 * (1.0 - certain) / (outputs - 1)
    drawn = drawn / drawn.sum(-1, keepdim=True)
    # `UNDECIDED` in falling and in rising order, to detect a loss that favours some class.
    return torch.cat([drawn, undecided, undecided.flip(-1), majority, certain])
