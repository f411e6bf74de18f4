"""How does each loss fare as more and more labels are wrong, and what did selecting on them cost?

python analysis/label_noise.py runs/label_noise [out.png] [part of a curve's label]
"""

import sys

from lossbench import figures, records, statistics

sweep = records.load(sys.argv[1])
out = sys.argv[2] if len(sys.argv) > 2 else "label_noise.png"
label = sys.argv[3] if len(sys.argv) > 3 else ""

comparisons = statistics.main_comparisons(sweep)
curves = [
    curve
    for curve in statistics.corruption_curves(comparisons, sweep)
    if label in f"{curve.label[0]} {curve.corruption[0]}"
]
if not curves:
    sys.exit(f"{sweep.sweep_dir} has no tasks that differ in data.corruption.params.rate only")
estimates = curves[0]
print(estimates.pivot_table("value", "loss", "rate").round(3).to_string())

columns = ["label", "loss", "noisy_lr", "clean_lr", "cost", "low", "high", "n"]
for costs in statistics.selection_costs(comparisons, sweep):
    print(costs[columns].round(4).to_string(index=False))

with figures.style():
    figure, axes = figures.page(height=2.2, width=figures.TWO_COLUMNS)
    figures.noise_curve(estimates, axes[0])
    figure.savefig(out)
print(f"{estimates.label[0]}, {estimates.corruption[0]}: {out}")
