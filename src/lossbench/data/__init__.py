"""Data sets by name: `DATA[name].fn(seed=..., **params)` gives splits of tensors in memory."""

from lossbench.data import real, synthetic
from lossbench.data.splits import Data, Splits

DATA: dict[str, Data] = {row.name: row for row in (*real.ROWS, *synthetic.ROWS)}

__all__ = ["DATA", "Data", "Splits"]
