"""How much of the error does each classification loss feed back?

python analysis/error_weight.py runs/essay [out.png]
"""

import sys

from lossbench import figures, records

sweep = records.load(sys.argv[1])
out = sys.argv[2] if len(sys.argv) > 2 else "error_weight.png"

shapes = sweep.curves
shapes = shapes[shapes.task == "classification"]
if shapes.empty:
    sys.exit(f"{sweep.sweep_dir} has no classification losses")

with figures.style():
    figure, axes = figures.page(height=1.9, width=figures.ONE_COLUMN)
    figures.error_weight(shapes, axes[0])
    figure.savefig(out)
print(out)
