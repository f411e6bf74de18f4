"""How does each loss fare as more and more labels are wrong, and what did selecting on them cost?

python analysis/label_noise.py runs/label_noise [out.png] [part of a curve's label]
"""

import sys

from lossbench import figures, records, report

sweep = sys.argv[1]
out = sys.argv[2] if len(sys.argv) > 2 else "label_noise.png"
wanted = sys.argv[3] if len(sys.argv) > 3 else ""

found = records.load(sweep)
tasks = [report.main_of(group) for group in report.by_context(report.comparisons(found))]
curves = [
    one
    for one in report.noise_curves(tasks, found)
    if wanted in f"{one.label[0]} {one.corruption[0]}"
]
if not curves:
    sys.exit(f"{sweep} has no tasks that differ in data.corruption.params.rate only")
estimates = curves[0]  # `statistics.noise_curves` of the runs that are compared
print(estimates.pivot_table("value", "loss", "rate").round(3).to_string())

told = ["label", "loss", "noisy_lr", "clean_lr", "cost", "low", "high", "n"]
for costs in report.selection_costs(tasks, found):
    print(costs[told].round(4).to_string(index=False))

with figures.style():
    figure, axes = figures.page(height=2.2, width=figures.TWO_COLUMNS)
    figures.noise_curve(estimates, axes[0])
    figure.savefig(out)
print(f"{estimates.label[0]}, {estimates.corruption[0]}: {out}")
