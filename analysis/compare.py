"""Two sweeps side by side: where do they agree on what a loss changes?

python analysis/compare.py runs/A runs/B [out.png] [part of a task's label]
"""

import sys

import pandas as pd

from lossbench import figures, records, report

one, other = sys.argv[1:3]
out = sys.argv[3] if len(sys.argv) > 3 else "compare.png"
wanted = sys.argv[4] if len(sys.argv) > 4 else ""

rows = []
for place in (one, other):
    for group in report.by_context(report.comparisons(records.load(place))):
        paired = report.main_of(group).paired
        rows += [paired.assign(sweep=place)] if len(paired) else []
paired = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=["label", "sweep"])
alike = ["label", "metric", "reference", "loss"]
both = paired[paired.groupby(alike).sweep.transform("nunique") == 2] if rows else paired
both = both[[wanted in label for label in both.label]]
if both.empty:
    told = "; ".join(
        f"{place}: {', '.join({*its.label})}" for place, its in paired.groupby("sweep")
    )
    sys.exit(f"no loss was compared on the same task with the same reference in both. {told}")
for facts, its in both.groupby(alike, sort=False):
    said = [
        f"{row.difference:+.3g} [{row.low:+.3g}, {row.high:+.3g}] {row.verdict}"
        for row in its.itertuples()
    ]
    print(f"{facts[0]}, {facts[3]} minus {facts[2]} in {facts[1]}:", *said, sep="\n  ")

first = both[both.label == both.label.iloc[0]].reset_index(drop=True)
with figures.style():
    figure, axes = figures.page(height=0.4 * first.loss.nunique() + 0.45, width=figures.TWO_COLUMNS)
    figures.side_by_side(
        first, axes[0], by="sweep", question=f"Do the two sweeps agree on {first.label.iloc[0]}?",
        note=f"Each loss against {first.reference.iloc[0]} at its own best learning rate.",
    )  # fmt: skip
    figure.savefig(out)
print(f"{first.label.iloc[0]}: {out}")
