"""Data sets of two dozen examples: images, grey ones, vectors."""

from __future__ import annotations

import torch

from lossbench.data import Splits

SIZES = {"train": 24, "validation": 12, "test": 12}


CLASSES = 3


def made(shape, seed):
    draw = torch.Generator().manual_seed(seed)
    return Splits(
        {split: torch.randn(size, *shape, generator=draw) for split, size in SIZES.items()},
        {
            split: torch.eye(CLASSES)[torch.randint(CLASSES, (size,), generator=draw)]
            for split, size in SIZES.items()
        },
        "classification",
        1.0,
    )


PUBLISHED = {"tiny_images": made((3, 16, 12), 0), "tiny_grey": made((1, 28, 28), 1)}


VOCABULARY, CONTEXT = 5, 4


def tiny_text(*, seed):
    """Sequences of 4 tokens of 5 kinds, with random distributions as their posterior."""
    draw = torch.Generator().manual_seed(20 + seed)

    def drawn():
        shapes = {split: (size, CONTEXT) for split, size in SIZES.items()}
        return {s: torch.randint(VOCABULARY, shape, generator=draw) for s, shape in shapes.items()}

    return Splits(
        drawn(),
        drawn(),
        "classification",
        1.0,
        posterior={
            split: torch.rand(size, CONTEXT, VOCABULARY, generator=draw).softmax(-1)
            for split, size in SIZES.items()
        },
        vocabulary=VOCABULARY,
    )


def tiny_images(*, seed):
    return PUBLISHED["tiny_images"]


def tiny_grey(*, seed):
    return PUBLISHED["tiny_grey"]


def tiny_vectors(*, seed):
    return made((7,), 10 + seed)
