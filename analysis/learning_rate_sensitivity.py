"""Which learning rates suit each loss?

python analysis/learning_rate_sensitivity.py runs/essay [out.png] [part of a task's label]
"""

import sys

from lossbench import figures, records, report, statistics

sweep = sys.argv[1]
out = sys.argv[2] if len(sys.argv) > 2 else "learning_rate_sensitivity.png"
wanted = sys.argv[3] if len(sys.argv) > 3 else ""
SPLIT = "validation"

found = records.load(sweep)
task = next(task for task in report.comparisons(found) if wanted in task.label)

runs = statistics.placed(found.runs)
runs = runs[runs.context.isin(task.runs.context)]
grid = runs[runs.stage == ("tune" if "tune" in set(runs.stage) else task.stage)]
frame = statistics.endpoint(grid, found.evals, split=SPLIT, metric=task.metric, endpoint="last")
rates = statistics.learning_rates(frame, metric=task.metric).assign(split=SPLIT)

with figures.style():
    figure, axes = figures.page(len({*rates.loss}), width=figures.TWO_COLUMNS)
    figures.learning_rate_sensitivity(rates, axes, reference=task.reference)
    figure.savefig(out)
print(f"{task.label}: {out}")
