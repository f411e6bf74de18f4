"""What makes other losses differ from the reference: scale, weighting, or neither?

python analysis/decomposition.py runs/decomposition [out.png] [part of a task's label]

For a sweep over the signals, such as experiment=decomposition, at the rate of the reference.
"""

import argparse
import sys

from lossbench import figures, records, statistics

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("sweep", help="folder of the sweep")
parser.add_argument("out", nargs="?", default="decomposition.png", help="file to write")
parser.add_argument("label", nargs="?", default="", help="part of a task's label")
options = parser.parse_args()
sweep, out, label = records.load(options.sweep), options.out, options.label

comparison = statistics.Verdicts(sweep).main(label)
split, metric, reference = comparison.split, comparison.metric, comparison.reference
lr = float(comparison.runs.lr[comparison.runs.loss == reference].iloc[0])
runs = sweep.runs[(sweep.runs.data == comparison.runs.data.iloc[0]) & (sweep.runs.lr == lr)]
runs = statistics.placed(runs, tuned=["signal"])
ends = statistics.endpoint(runs, sweep.evals, split=split, metric=metric)
parts = statistics.decomposition(ends, metric=metric, reference=reference)
if parts.empty:
    where = f"beside {reference} at its learning rate"
    sys.exit(f"{sweep.sweep_dir} has no loss with all signals {where}")
first = parts.iloc[0]
parts = parts[parts.context == first.context]

with figures.style():
    height = 0.55 * parts.loss.nunique() + 0.5
    figure, axes = figures.page(height=height, width=figures.TWO_COLUMNS)
    figures.decomposition(parts.assign(split=split), axes[0])
    figure.savefig(out)
print(f"{first.label}: {out}")
