"""Settings of the engine: device, threads, precision, pack size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from lossbench.data.files import ROOT, Files

AUTO, TF32 = "auto", "tf32"
DEVICES = ("cpu", "cuda", AUTO)
PRECISIONS = {"float32": torch.float32, "float64": torch.float64, TF32: torch.float32}
"""Type of parameters and data by precision; tf32 rounds the factors of products to 10 bits."""


@dataclass(frozen=True)
class Engine:
    """Settings of the engine; they change speed, never results beyond float tolerance.

    Attributes:
        device: "cpu" or "cuda"; "auto" was already replaced by one of these.
        pack_size, threads: Most members of a pack, and number of threads of each process.
        commit_every: Seconds between two checkpoints.
        patience: Seconds that the first call of a user's loss may take.
        strategies: Names of optional strategies to use on devices that support them.
        data_root: Folder with the files of data sets.
        download: Whether files that are missing in this folder may be downloaded.
    """

    device: str
    pack_size: int
    threads: int
    commit_every: float
    patience: float = 60.0
    strategies: tuple[str, ...] = ()
    data_root: str = ROOT
    download: bool = False

    @property
    def files(self) -> Files:
        """Access to the files that data sets read."""
        return Files(Path(self.data_root), self.download)

    @property
    def padding(self) -> int:
        """Least number of members of a pack; the kernels and the bits of results depend on it."""
        return 2 if self.device == "cpu" else self.pack_size
