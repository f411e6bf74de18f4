"""How much of the error does each classification loss feed back?

python analysis/error_weight.py runs/essay [out.png]
"""

import sys
from pathlib import Path

import pyarrow.parquet as pq

from lossbench import figures

sweep = sys.argv[1]
out = sys.argv[2] if len(sys.argv) > 2 else "error_weight.png"

shapes = pq.read_table(Path(sweep) / "curves.parquet").to_pandas()
shapes = shapes[shapes.task == "classification"]
if shapes.empty:
    sys.exit(f"{sweep} has no classification losses")

with figures.style():
    figure, axes = figures.page(height=1.9, width=figures.ONE_COLUMN)
    figures.error_weight(shapes, axes[0])
    figure.savefig(out)
print(out)
