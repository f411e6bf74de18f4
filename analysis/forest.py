"""Does another loss beat the reference?

python analysis/forest.py runs/essay [out.png] [part of a task's label]
"""

import sys

from lossbench import figures, records, report, statistics

sweep = sys.argv[1]
out = sys.argv[2] if len(sys.argv) > 2 else "forest.png"
wanted = sys.argv[3] if len(sys.argv) > 3 else ""

found = records.load(sweep)
task = next(task for task in report.comparisons(found) if wanted in task.label)
question = report.asked(found.plan)

paired = statistics.paired(
    task.runs,
    metric=task.metric,
    reference=task.reference,
    margin=question["margin"][task.runs.task.iloc[0]],
    confidence=question["confidence"],
    declared=report.declared_losses(found.plan, task.runs),
)
if paired.empty:
    sys.exit(f"{task.label} has no other loss to compare with {task.reference}")

with figures.style():
    figure, axes = figures.page(height=0.32 * len(paired) + 0.2, width=figures.TWO_COLUMNS)
    figures.forest(paired, axes[0])
    figure.savefig(out)
print(f"{task.label}: {out}")
