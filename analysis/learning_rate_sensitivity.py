"""Which learning rates suit each loss?

python analysis/learning_rate_sensitivity.py runs/essay [out.png] [part of a task's label]
"""

import sys

from lossbench import figures, records, report

sweep = sys.argv[1]
out = sys.argv[2] if len(sys.argv) > 2 else "learning_rate_sensitivity.png"
wanted = sys.argv[3] if len(sys.argv) > 3 else ""

task = report.chosen(records.load(sweep), wanted)
rates = task.rates  # `statistics.learning_rates` of the runs that tuned, task.grid

with figures.style():
    figure, axes = figures.page(rates.loss.nunique(), width=figures.TWO_COLUMNS)
    figures.learning_rate_sensitivity(rates, axes, reference=task.reference)
    figure.savefig(out)
print(f"{task.label}: {out}")
