"""How much of the error does each classification loss feed back?

python analysis/error_weight.py runs/essay [out.png]
"""

import argparse
import sys

from lossbench import figures, records

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("sweep", help="folder of the sweep")
parser.add_argument("out", nargs="?", default="error_weight.png", help="file to write")
options = parser.parse_args()
sweep, out = records.load(options.sweep), options.out

shapes = sweep.curves
shapes = shapes[shapes.task == "classification"]
if shapes.empty:
    sys.exit(f"{sweep.sweep_dir} has no classification losses")

with figures.style():
    figure, axes = figures.page(height=1.9, width=figures.ONE_COLUMN)
    figures.error_weight(shapes, axes[0])
    figure.savefig(out)
print(out)
