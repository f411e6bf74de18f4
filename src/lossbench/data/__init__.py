"""Data sets by name: `DATA[name].fn(seed=..., **params)` gives splits of tensors in memory."""

from lossbench.data import images, real, synthetic
from lossbench.data.splits import Data, Splits

DATA: dict[str, Data] = {row.name: row for row in (*real.ROWS, *images.ROWS, *synthetic.ROWS)}

__all__ = ["DATA", "Data", "Splits"]
