"""How fast does each loss learn?

python analysis/learning_curves.py runs/essay [out.png] [part of a task's label]
"""

import sys

from lossbench import figures, records, report, statistics

sweep = sys.argv[1]
out = sys.argv[2] if len(sys.argv) > 2 else "learning_curves.png"
wanted = sys.argv[3] if len(sys.argv) > 3 else ""
SPLIT = "validation"

found = records.load(sweep)
task = report.chosen(found, wanted)

evals = found.evals[(found.evals.metric == task.metric) & (found.evals.split == SPLIT)]
curves = statistics.curves(statistics.joined(evals, task.runs), value="value", confidence=0.95)
curves = statistics.with_losses_of_runs(curves, task.runs)
curves = curves.assign(metric=task.metric, split=SPLIT)

with figures.style():
    figure, axes = figures.page(curves.loss.nunique(), width=figures.TWO_COLUMNS)
    figures.learning_curves(curves, axes, reference=task.reference)
    figure.savefig(out)
print(f"{task.label}: {out}")
