"""Which learning rates suit each loss?

python analysis/learning_rate_sensitivity.py runs/essay [out.png] [part of a task's label]
"""

import argparse

from lossbench import figures, records, statistics

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("sweep", help="folder of the sweep")
parser.add_argument("out", nargs="?", default="learning_rate_sensitivity.png", help="file to write")
parser.add_argument("label", nargs="?", default="", help="part of a task's label")
options = parser.parse_args()
sweep, out, label = records.load(options.sweep), options.out, options.label

comparison = statistics.Verdicts(sweep).main(label)
rates = comparison.rates  # `statistics.learning_rates` of the runs that tuned, comparison.grid

with figures.style():
    figure, axes = figures.page(rates.loss.nunique(), width=figures.TWO_COLUMNS)
    figures.learning_rate_sensitivity(rates, axes, reference=comparison.reference)
    figure.savefig(out)
print(f"{comparison.label}: {out}")
