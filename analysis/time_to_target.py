"""How soon does each loss reach the target that was declared beforehand?

python analysis/time_to_target.py runs/essay [out.png] [part of a task's label]
"""

import sys

from lossbench import figures, records, report

sweep = sys.argv[1]
out = sys.argv[2] if len(sys.argv) > 2 else "time_to_target.png"
wanted = sys.argv[3] if len(sys.argv) > 3 else ""

found = records.load(sweep)
task = report.chosen(found, wanted)
times = report.reached(task, found)  # `statistics.time_to` at the declared target
if times.empty:
    sys.exit(f"{task.label} has no declared target")
print(times[["loss", "metric", "target", "median", "reached", "n"]].to_string(index=False))

with figures.style():
    figure, axes = figures.page(height=1.8, width=figures.ONE_COLUMN)
    figures.time_to_target(times.assign(task=task.runs.task.iloc[0]), axes)
    figure.savefig(out)
print(f"{task.label}: {out}")
