"""How good are the probabilities?

python analysis/calibration.py runs/essay [out.png] [part of a task's label]
"""

import argparse
import sys

from lossbench import figures, records, statistics

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("sweep", help="folder of the sweep")
parser.add_argument("out", nargs="?", default="calibration.png", help="file to write")
parser.add_argument("label", nargs="?", default="digits", help="part of a task's label")
options = parser.parse_args()
sweep, out, label = records.load(options.sweep), options.out, options.label

comparison = statistics.Verdicts(sweep).main(label)
rows = comparison.summary[comparison.summary.metric.isin(["nll", "nll_raw", "ece", "ece_raw"])]
if rows.empty:
    sys.exit(f"{comparison.label} has no probabilities")

with figures.style():
    height = 0.25 * rows.loss.nunique() + 0.4
    figure, axes = figures.page(2, shared="none", height=height, width=figures.TWO_COLUMNS)
    figures.calibration(rows, axes)
    figure.savefig(out)
print(f"{comparison.label}: {out}")
