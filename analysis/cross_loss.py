"""Is each loss best at its own game?

python analysis/cross_loss.py runs/essay [out.png] [part of a task's label]
"""

import sys

from lossbench import figures, records, statistics

sweep = records.load(sys.argv[1])
out = sys.argv[2] if len(sys.argv) > 2 else "cross_loss.png"
label = sys.argv[3] if len(sys.argv) > 3 else ""

comparison = statistics.main_comparison(sweep, label)
matrix = statistics.cross_losses(comparison.runs, sweep.evals)
if matrix.empty:
    sys.exit(f"{comparison.label} has no runs that were judged by other losses")

with figures.style():
    height = 0.24 * matrix.loss.nunique() + 0.7
    figure, axes = figures.page(height=height, width=figures.TWO_COLUMNS)
    figures.cross_loss(matrix, axes[0])
    figure.savefig(out)
print(f"{comparison.label}: {out}")
