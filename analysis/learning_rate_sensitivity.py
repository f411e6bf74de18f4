"""Which learning rates suit each loss?

python analysis/learning_rate_sensitivity.py runs/essay [out.png] [part of a task's label]
"""

import sys

from lossbench import figures, records, statistics

sweep = records.load(sys.argv[1])
out = sys.argv[2] if len(sys.argv) > 2 else "learning_rate_sensitivity.png"
label = sys.argv[3] if len(sys.argv) > 3 else ""

comparison = statistics.main_comparison(sweep, label)
rates = comparison.rates  # `statistics.learning_rates` of the runs that tuned, comparison.grid

with figures.style():
    figure, axes = figures.page(rates.loss.nunique(), width=figures.TWO_COLUMNS)
    figures.learning_rate_sensitivity(rates, axes, reference=comparison.reference)
    figure.savefig(out)
print(f"{comparison.label}: {out}")
