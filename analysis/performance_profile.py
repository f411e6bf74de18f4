"""Which loss does well over all tasks?

python analysis/performance_profile.py runs/essay [out.png] [regression | classification]
"""

import sys

import numpy as np

from lossbench import figures, records, statistics

sweep = records.load(sys.argv[1])
out = sys.argv[2] if len(sys.argv) > 2 else "performance_profile.png"
task = sys.argv[3] if len(sys.argv) > 3 else "regression"

comparisons = statistics.main_comparisons(sweep)
groups = [row for row in statistics.normalised_scores(comparisons, sweep) if row[0] == task]
if not groups:
    sys.exit(f"{sweep.sweep_dir} has no two tasks of {task} with the same losses")
_, metric, scores = groups[0]
print(statistics.iqm(scores)[["loss", "value", "low", "high", "n", "tasks"]].to_string(index=False))

profile = statistics.performance_profile(scores, taus=np.arange(0, 1.201, 0.02))
family = dict(zip(scores.loss, scores.family, strict=True))
profile["family"] = profile.loss.map(family)

with figures.style():
    figure, axes = figures.page(height=1.9, width=figures.TWO_COLUMNS)
    reference = scores.reference.iloc[0]
    rows = profile.assign(task=task, metric=metric, reference=reference)
    figures.performance_profile(rows, axes[0])
    figure.savefig(out)
print(f"{task}: {out}")
