"""The training loop: a pack of runs in, four tables of records out."""

from lossbench.engine.checkpoint import Saved, Snapshot
from lossbench.engine.members import batch_indices, refuse_unpaired, refuse_unwidened, runs_apart
from lossbench.engine.recorder import failed
from lossbench.engine.strategies import kernel_maker
from lossbench.engine.train import train

__all__ = [
    "Saved",
    "Snapshot",
    "batch_indices",
    "failed",
    "kernel_maker",
    "refuse_unpaired",
    "refuse_unwidened",
    "runs_apart",
    "train",
]
