"""One stream of random numbers per purpose and seed: runs of one seed draw the same ones.

No stream depends on the loss, the learning rate or the place in a pack.
"""

from __future__ import annotations

import hashlib

import torch

PURPOSES = ("init", "batches", "data", "split", "corruption", "prefit", "dropout", "augmentation")
PURPOSES += ("instruments",)
"""Purposes of random numbers. `stream` does not name them, so that one more does not change
the code, and with it the identity, of all runs."""


def stream(seed: int, purpose: str) -> torch.Generator:
    """Generator of one purpose of one seed, on the CPU.

    Args:
        seed: Block of the paired design.
        purpose: One of `PURPOSES`.
    """
    digest = hashlib.sha256(f"{seed}:{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
