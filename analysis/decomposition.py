"""What makes other losses differ from the reference: scale, weighting, or neither?

python analysis/decomposition.py runs/decomposition [out.png] [part of a task's label]

For a sweep over the signals at the reference's learning rate, such as experiment=decomposition.
"""

import sys

from lossbench import figures, records, statistics

sweep = records.load(sys.argv[1])
out = sys.argv[2] if len(sys.argv) > 2 else "decomposition.png"
label = sys.argv[3] if len(sys.argv) > 3 else ""

comparison = statistics.main_comparison(sweep, label)
split, metric, reference = comparison.split, comparison.metric, comparison.reference
runs = sweep.runs[sweep.runs.data == comparison.runs.data.iloc[0]]
runs = statistics.placed(runs[runs.stage != "tune"], tuned=["signal"])
ends = statistics.endpoint(runs, sweep.evals, split=split, metric=metric)
parts = statistics.decomposition(ends, metric=metric, reference=reference)
if parts.empty:
    where = f"beside {reference} at its learning rate"
    sys.exit(f"{sweep.sweep_dir} has no loss with all signals {where}")
first = parts.sort_values("condition", key=lambda column: column != "reference_lr").iloc[0]
cell = ["context", "condition", "lr"]
parts = parts[(parts[cell] == first[cell]).all(axis=1)]

with figures.style():
    height = 0.55 * parts.loss.nunique() + 0.5
    figure, axes = figures.page(height=height, width=figures.TWO_COLUMNS)
    figures.decomposition(parts.assign(split=split), axes[0])
    figure.savefig(out)
print(f"{first.label}: {out}")
