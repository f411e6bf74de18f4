"""Does another loss beat the reference?

python analysis/forest.py runs/essay [out.png] [part of a task's label]
"""

import sys

from lossbench import figures, records, report

sweep = sys.argv[1]
out = sys.argv[2] if len(sys.argv) > 2 else "forest.png"
wanted = sys.argv[3] if len(sys.argv) > 3 else ""

task = report.chosen(records.load(sweep), wanted)
paired = task.paired  # what `statistics.paired` makes of task.runs, as it was declared
if paired.empty:
    sys.exit(f"{task.label} has no other loss to compare with {task.reference}. {task.refusal}")

with figures.style():
    figure, axes = figures.page(height=0.32 * len(paired) + 0.2, width=figures.TWO_COLUMNS)
    figures.forest(paired, axes[0])
    figure.savefig(out)
print(f"{task.label}: {out}")
