"""How hard does each loss push, and where?

python analysis/loss_shapes.py runs/essay [out.png] [regression | classification]
"""

import argparse

from lossbench import figures, records

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("sweep", help="folder of the sweep")
parser.add_argument("out", nargs="?", default="loss_shapes.png", help="file to write")
parser.add_argument("task", nargs="?", default="regression", help="regression or classification")
options = parser.parse_args()
sweep, out, task = records.load(options.sweep), options.out, options.task

shapes = sweep.curves
if task not in set(shapes.task):
    task = shapes.task.iloc[0]

with figures.style():
    figure, axes = figures.page(3, shared="none", height=1.7, width=figures.TWO_COLUMNS)
    figures.loss_shapes(shapes[shapes.task == task], axes)
    figure.savefig(out)
print(f"{task}: {out}")
