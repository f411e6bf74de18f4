"""Two sweeps side by side: where do they agree on what a loss changes?

python analysis/compare.py runs/A runs/B [out.png] [part of a context's label]
"""

import argparse
import sys

import pandas as pd

from lossbench import figures, records, statistics

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("sweeps", nargs=2, help="folders of two sweeps")
parser.add_argument("out", nargs="?", default="compare.png")
parser.add_argument("label", nargs="?", default="", help="part of a context's label")
options = parser.parse_args()
sweeps, out, label = options.sweeps, options.out, options.label

tables = [pd.DataFrame(columns=["label", "metric", "reference", "loss", "sweep"])]
for sweep in sweeps:
    mains = statistics.Verdicts(records.load(sweep))
    tables += [main.paired.assign(sweep=sweep) for main in mains if len(main.paired)]
pairs = pd.concat(tables[1:] or tables, ignore_index=True)

same = ["label", "metric", "reference", "loss"]
both = pairs[pairs.groupby(same).sweep.transform("nunique") == 2]
both = both[[label in text for text in both.label]]
if both.empty:
    labels = pairs.groupby("sweep").label.unique()
    there = "; ".join(f"{sweep}: {', '.join(names)}" for sweep, names in labels.items())
    sys.exit(f"no loss was compared on the same context with the same reference in both. {there}")

for (context, metric, reference, loss), rows in both.groupby(same, sort=False):
    print(f"{context}, {loss} minus {reference} in {metric}:")
    for row in rows.itertuples():
        print(f"  {row.difference:+.3g} [{row.low:+.3g}, {row.high:+.3g}] {row.verdict}")

first = both[both.label == both.label.iloc[0]].reset_index(drop=True)
with figures.style():
    height = 0.4 * first.loss.nunique() + 0.45
    figure, axes = figures.page(height=height, width=figures.TWO_COLUMNS)
    question = f"Do the two sweeps agree on {first.label.iloc[0]}?"
    note = f"Each loss against {first.reference.iloc[0]} at its own best learning rate."
    figures.side_by_side(first, axes[0], by="sweep", question=question, note=note)
    figure.savefig(out)
print(f"{first.label.iloc[0]}: {out}")
