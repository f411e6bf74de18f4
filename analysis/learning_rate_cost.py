"""How much does the learning rate matter to each loss?

python analysis/learning_rate_cost.py runs/essay [out.png] [part of a task's label]
"""

import sys

from lossbench import figures, records, report, statistics

sweep = sys.argv[1]
out = sys.argv[2] if len(sys.argv) > 2 else "learning_rate_cost.png"
wanted = sys.argv[3] if len(sys.argv) > 3 else ""

task = report.chosen(records.load(sweep), wanted)
if task.paired.empty:
    sys.exit(f"{task.label} has no other loss to compare with {task.reference}. {task.refusal}")
rates = statistics.excess(task.rates)
budgets = statistics.budget_curve(task.grid, metric=task.rates.metric.iloc[0])

with figures.style():
    figure, axes = figures.page(2, shared="none", height=1.8, width=figures.TWO_COLUMNS)
    figures.learning_rate_cost(rates, axes, budgets=budgets, margin=task.paired.margin.iloc[0])
    figure.savefig(out)
print(f"{task.label}: {out}")
