"""How fast does each loss learn?

python analysis/learning_curves.py runs/essay [out.png] [part of a task's label]
"""

import argparse

from lossbench import figures, records, statistics

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("sweep", help="folder of the sweep")
parser.add_argument("out", nargs="?", default="learning_curves.png", help="file to write")
parser.add_argument("label", nargs="?", default="", help="part of a task's label")
options = parser.parse_args()
sweep, out, label = records.load(options.sweep), options.out, options.label
split = "validation"

comparison = statistics.Verdicts(sweep).main(label)

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
