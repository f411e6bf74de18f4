"""How much does the learning rate matter to each loss?

python analysis/learning_rate_cost.py runs/essay [out.png] [part of a task's label]
"""

import argparse
import sys

from lossbench import figures, records, statistics

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("sweep", help="folder of the sweep")
parser.add_argument("out", nargs="?", default="learning_rate_cost.png", help="file to write")
parser.add_argument("label", nargs="?", default="", help="part of a task's label")
options = parser.parse_args()
sweep, out, label = records.load(options.sweep), options.out, options.label

comparison = statistics.Verdicts(sweep).main(label)
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
