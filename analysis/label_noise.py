"""How does each loss fare as more and more labels are wrong, and what did selecting on them cost?

python analysis/label_noise.py runs/label_noise [out.png] [part of a curve's label]
"""

import argparse
import sys

from lossbench import figures, records, statistics

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("sweep", help="folder of the sweep")
parser.add_argument("out", nargs="?", default="label_noise.png", help="file to write")
parser.add_argument("label", nargs="?", default="", help="part of a task's label")
options = parser.parse_args()
sweep, out, label = records.load(options.sweep), options.out, options.label

comparisons = statistics.Verdicts(sweep).mains
curves = [
    curve
    for curve in statistics.corruption_curves(comparisons)
    if label in f"{curve.label[0]} {curve.corruption[0]}"
]
if not curves:
    sys.exit(f"{sweep.sweep_dir} has no contexts that differ in data.corruption.params.rate only")
estimates = curves[0]
print(estimates.pivot_table("value", "loss", "rate").round(3).to_string())

columns = ["label", "loss", "noisy_lr", "clean_lr", "cost", "low", "high", "n"]
for comparison in comparisons:
    if len(costs := comparison.selection_cost):
        print(costs[columns].round(4).to_string(index=False))

with figures.style():
    figure, axes = figures.page(height=2.2, width=figures.TWO_COLUMNS)
    figures.noise_curve(estimates, axes[0])
    figure.savefig(out)
print(f"{estimates.label[0]}, {estimates.corruption[0]}: {out}")
