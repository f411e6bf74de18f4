"""Does the verdict hold at other learning rates?

python analysis/conditions.py runs/essay [out.png] [part of a task's label]
"""

import argparse
import sys

import pandas as pd

from lossbench import figures, records, statistics

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("sweep", help="folder of the sweep")
parser.add_argument("out", nargs="?", default="conditions.png", help="file to write")
parser.add_argument("label", nargs="?", default="", help="part of a task's label")
options = parser.parse_args()
sweep, out, label = records.load(options.sweep), options.out, options.label

verdicts = statistics.Verdicts(sweep)
comparison = verdicts.main(label)
tables = [
    one.paired.assign(setting=records.CONDITIONS[one.condition].short)
    for one in verdicts.comparisons
    if one.label == comparison.label and len(one.paired)
]
if not tables:
    lacking = f"{comparison.label} has no other loss to compare with {comparison.reference}"
    sys.exit(f"{lacking}. {comparison.refusal}")
rows = pd.concat(tables, ignore_index=True)

with figures.style():
    figure, axes = figures.page(height=0.4 * rows.loss.nunique() + 0.45, width=figures.TWO_COLUMNS)
    figures.side_by_side(
        rows,
        axes[0],
        question=f"Does the verdict hold at other learning rates on {comparison.label}?",
        note=f"The reference is {comparison.reference}.",
    )
    figure.savefig(out)
print(f"{comparison.label}: {out}")
