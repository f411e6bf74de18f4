"""How hard does each loss push, and where?

python analysis/loss_shapes.py runs/essay [out.png] [regression | classification]
"""

import sys

from lossbench import figures, records

sweep = records.load(sys.argv[1])
out = sys.argv[2] if len(sys.argv) > 2 else "loss_shapes.png"
task = sys.argv[3] if len(sys.argv) > 3 else "regression"

shapes = sweep.curves
if task not in set(shapes.task):
    task = shapes.task.iloc[0]

with figures.style():
    figure, axes = figures.page(3, shared="none", height=1.7, width=figures.TWO_COLUMNS)
    figures.loss_shapes(shapes[shapes.task == task], axes)
    figure.savefig(out)
print(f"{task}: {out}")
