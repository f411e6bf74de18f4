"""What does each loss feed back while it learns?

python analysis/error_signal.py runs/essay [out.png] [part of a task's label]
"""

import sys

from lossbench import figures, records, report, statistics

sweep = sys.argv[1]
out = sys.argv[2] if len(sys.argv) > 2 else "error_signal.png"
wanted = sys.argv[3] if len(sys.argv) > 3 else ""

found = records.load(sweep)
task = report.chosen(found, wanted)
courses = statistics.courses(found, task.runs, confidence=0.95)

with figures.style():
    figure, axes = figures.page(3, shared="x", height=1.7, width=figures.TWO_COLUMNS)
    figures.error_signal(courses, axes)
    figure.savefig(out)
print(f"{task.label}: {out}")
