"""How soon does each loss reach the target that was declared beforehand?

python analysis/time_to_target.py runs/essay [out.png] [part of a task's label]
"""

import sys

from lossbench import figures, records, statistics

sweep = records.load(sys.argv[1])
out = sys.argv[2] if len(sys.argv) > 2 else "time_to_target.png"
label = sys.argv[3] if len(sys.argv) > 3 else ""

comparison = statistics.main_comparison(sweep, label)
times = statistics.times_to_target(comparison, sweep)
if times.empty:
    sys.exit(f"{comparison.label} has no declared target")
print(times[["loss", "metric", "target", "median", "reached", "n"]].to_string(index=False))

with figures.style():
    figure, axes = figures.page(height=1.8, width=figures.ONE_COLUMN)
    figures.time_to_target(times.assign(task=comparison.task), axes)
    figure.savefig(out)
print(f"{comparison.label}: {out}")
