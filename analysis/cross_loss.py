"""Is each loss best at its own game?

python analysis/cross_loss.py runs/essay [out.png] [part of a task's label]
"""

import argparse
import sys

from lossbench import figures, records, statistics

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("sweep", help="folder of the sweep")
parser.add_argument("out", nargs="?", default="cross_loss.png", help="file to write")
parser.add_argument("label", nargs="?", default="", help="part of a task's label")
options = parser.parse_args()
sweep, out, label = records.load(options.sweep), options.out, options.label

comparison = statistics.Verdicts(sweep).main(label)
matrix = statistics.cross_losses(comparison.runs, sweep.evals)
if matrix.empty:
    sys.exit(f"{comparison.label} has no runs that were judged by other losses")

with figures.style():
    height = 0.24 * matrix.loss.nunique() + 0.7
    figure, axes = figures.page(height=height, width=figures.TWO_COLUMNS)
    figures.cross_loss(matrix, axes[0])
    figure.savefig(out)
print(f"{comparison.label}: {out}")
