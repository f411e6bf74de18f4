"""How fast does each loss learn?

python analysis/learning_curves.py runs/essay [out.png] [part of a task's label]
"""

import sys

from lossbench import figures, records, statistics

sweep = records.load(sys.argv[1])
out = sys.argv[2] if len(sys.argv) > 2 else "learning_curves.png"
label = sys.argv[3] if len(sys.argv) > 3 else ""
split = "validation"

comparison = statistics.main_comparison(sweep, label)

evals = sweep.evals[(sweep.evals.metric == comparison.metric) & (sweep.evals.split == split)]
evals = statistics.joined(evals, comparison.runs)
curves = statistics.curves(evals, value="value", confidence=0.95)
curves = statistics.with_losses_of_runs(curves, comparison.runs)
curves = curves.assign(metric=comparison.metric, split=split)

with figures.style():
    figure, axes = figures.page(curves.loss.nunique(), width=figures.TWO_COLUMNS)
    figures.learning_curves(curves, axes, reference=comparison.reference)
    figure.savefig(out)
print(f"{comparison.label}: {out}")
