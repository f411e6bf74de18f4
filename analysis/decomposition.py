"""What makes other losses differ from the reference: scale, weighting, or neither?

python analysis/decomposition.py runs/decomposition [out.png] [part of a task's label]

For a sweep over the signals at the reference's learning rate, such as experiment=decomposition.
"""

import sys

from lossbench import figures, records, report, statistics

sweep = sys.argv[1]
out = sys.argv[2] if len(sys.argv) > 2 else "decomposition.png"
wanted = sys.argv[3] if len(sys.argv) > 3 else ""

found = records.load(sweep)
task = report.chosen(found, wanted)
alike = found.runs[(found.runs.data == task.runs.data.iloc[0]) & (found.runs.stage != "tune")]
runs = statistics.placed(alike, tuned=["signal"])
ended = statistics.endpoint(runs, found.evals, split=task.split, metric=task.metric)
parts = statistics.decomposition(ended, metric=task.metric, reference=task.reference)
if parts.empty:
    sys.exit(f"{sweep} has no loss with all signals beside {task.reference} at its learning rate")
first = parts.sort_values("condition", key=lambda column: column != "reference_lr").iloc[0]
parts = parts[
    (parts[["context", "condition", "lr"]] == first[["context", "condition", "lr"]]).all(axis=1)
]

with figures.style():
    height = 0.55 * parts.loss.nunique() + 0.5
    figure, axes = figures.page(height=height, width=figures.TWO_COLUMNS)
    figures.decomposition(parts.assign(split=task.split), axes[0])
    figure.savefig(out)
print(f"{first.label}: {out}")
