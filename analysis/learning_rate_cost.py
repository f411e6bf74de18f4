"""How much does the learning rate matter to each loss?

python analysis/learning_rate_cost.py runs/essay [out.png] [part of a task's label]
"""

import sys

from lossbench import figures, records, statistics

sweep = records.load(sys.argv[1])
out = sys.argv[2] if len(sys.argv) > 2 else "learning_rate_cost.png"
label = sys.argv[3] if len(sys.argv) > 3 else ""

comparison = statistics.main_comparison(sweep, label)
if comparison.paired.empty:
    lacking = f"{comparison.label} has no other loss to compare with {comparison.reference}"
    sys.exit(f"{lacking}. {comparison.refusal}")
rates = statistics.excess(comparison.rates)
budgets = statistics.budget_curve(comparison.grid, metric=comparison.rates.metric.iloc[0])

with figures.style():
    figure, axes = figures.page(2, shared="none", height=1.8, width=figures.TWO_COLUMNS)
    margin = comparison.paired.margin.iloc[0]
    figures.learning_rate_cost(rates, axes, budgets=budgets, margin=margin)
    figure.savefig(out)
print(f"{comparison.label}: {out}")
