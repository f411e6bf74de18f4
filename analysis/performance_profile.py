"""Which loss does well over all tasks?

python analysis/performance_profile.py runs/essay [out.png] [regression | classification]
"""

import sys

import numpy as np

from lossbench import figures, records, report, statistics

sweep = sys.argv[1]
out = sys.argv[2] if len(sys.argv) > 2 else "performance_profile.png"
wanted = sys.argv[3] if len(sys.argv) > 3 else "regression"

found = records.load(sweep)
tasks = [report.main_of(group) for group in report.by_context(report.comparisons(found))]
alike = [(metric, scores) for kind, metric, scores in report.across(tasks, found) if kind == wanted]
if not alike:
    sys.exit(f"{sweep} has no two tasks of {wanted} with the same losses")
metric, scores = alike[0]
print(statistics.iqm(scores)[["loss", "value", "low", "high", "n", "tasks"]].to_string(index=False))

profile = statistics.performance_profile(scores, taus=np.arange(0, 1.201, 0.02))
family = dict(zip(scores.loss, scores.family, strict=True))
profile["family"] = profile.loss.map(family)

with figures.style():
    figure, axes = figures.page(height=1.9, width=figures.TWO_COLUMNS)
    told = profile.assign(task=wanted, metric=metric, reference=scores.reference.iloc[0])
    figures.performance_profile(told, axes[0])
    figure.savefig(out)
print(f"{wanted}: {out}")
