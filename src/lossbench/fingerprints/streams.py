"""Random streams, one for each purpose and seed, so that runs of a seed draw equal numbers.

No stream depends on the loss, the learning rate or the position in a pack.
"""

from __future__ import annotations

import hashlib

import torch

PURPOSES = ("init", "batches", "data", "split", "corruption", "prefit", "dropout", "augmentation")
PURPOSES += ("instruments",)
"""Purposes of random numbers. `stream` does not use this tuple, so that a new purpose does not
change the code, and with it the identity, of all runs."""


def stream(seed: int, purpose: str) -> torch.Generator:
    """Make the generator of a purpose and a seed, on the CPU.

    Args:
        seed: Block of the paired design.
        purpose: One of `PURPOSES`.
    """
    digest = hashlib.sha256(f"{seed}:{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
