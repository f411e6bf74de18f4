"""Data sets by name: `DATA[name].fn(seed=..., **params)` gives splits of tensors in memory."""

from lossbench.data import images, mnist1d, real, synthetic, tabular, text
from lossbench.data.splits import Data, Splits

_ROWS = (*real.ROWS, *mnist1d.ROWS, *tabular.ROWS, *images.ROWS, *synthetic.ROWS, *text.ROWS)
DATA: dict[str, Data] = {row.name: row for row in _ROWS}
