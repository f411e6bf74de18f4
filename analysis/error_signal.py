"""What does each loss feed back while it learns?

python analysis/error_signal.py runs/essay [out.png] [part of a task's label]
"""

import sys

from lossbench import figures, records, report, statistics

sweep = sys.argv[1]
out = sys.argv[2] if len(sys.argv) > 2 else "error_signal.png"
wanted = sys.argv[3] if len(sys.argv) > 3 else ""

found = records.load(sweep)
task = next(task for task in report.comparisons(found) if wanted in task.label)

steps = statistics.joined(found.steps, task.runs)
norms = statistics.curves(steps, value="gradient_norm", geometric=True)
cosines = statistics.curves(steps, value="cosine")

with figures.style():
    figure, axes = figures.page(2, shared="x", height=2.0, width=figures.TWO_COLUMNS)
    figures.error_signal(norms, axes, cosines=cosines)
    figure.savefig(out)
print(f"{task.label}: {out}")
