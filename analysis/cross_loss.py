"""Is each loss best at its own game?

python analysis/cross_loss.py runs/essay [out.png] [part of a task's label]
"""

import sys

from lossbench import figures, records, report, statistics

sweep = sys.argv[1]
out = sys.argv[2] if len(sys.argv) > 2 else "cross_loss.png"
wanted = sys.argv[3] if len(sys.argv) > 3 else ""

found = records.load(sweep)
task = report.chosen(found, wanted)
matrix = statistics.cross_losses(task.runs, found.evals)
if matrix.empty:
    sys.exit(f"{task.label} has no runs that were judged by other losses")

with figures.style():
    height = 0.24 * matrix.loss.nunique() + 0.7
    figure, axes = figures.page(height=height, width=figures.TWO_COLUMNS)
    figures.cross_loss(matrix, axes[0])
    figure.savefig(out)
print(f"{task.label}: {out}")
