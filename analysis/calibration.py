"""How good are the probabilities?

python analysis/calibration.py runs/essay [out.png] [part of a task's label]
"""

import sys

from lossbench import figures, records, statistics

sweep = records.load(sys.argv[1])
out = sys.argv[2] if len(sys.argv) > 2 else "calibration.png"
label = sys.argv[3] if len(sys.argv) > 3 else "digits"

comparison = statistics.main_comparison(sweep, label)
rows = comparison.summary[comparison.summary.metric.isin(["nll", "nll_raw", "ece", "ece_raw"])]
if rows.empty:
    sys.exit(f"{comparison.label} has no probabilities")

with figures.style():
    height = 0.25 * rows.loss.nunique() + 0.4
    figure, axes = figures.page(2, shared="none", height=height, width=figures.TWO_COLUMNS)
    figures.calibration(rows, axes)
    figure.savefig(out)
print(f"{comparison.label}: {out}")
