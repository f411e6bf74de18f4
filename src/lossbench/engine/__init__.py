"""The training loop: a pack of runs in, four tables of records out."""

from lossbench.engine.train import train

__all__ = ["train"]
