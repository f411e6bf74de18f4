"""What does each loss feed back while it learns?

python analysis/error_signal.py runs/essay [out.png] [part of a task's label]
"""

import sys

from lossbench import figures, records, statistics

sweep = records.load(sys.argv[1])
out = sys.argv[2] if len(sys.argv) > 2 else "error_signal.png"
label = sys.argv[3] if len(sys.argv) > 3 else ""

comparison = statistics.main_comparison(sweep, label)
courses = statistics.courses(sweep, comparison.runs, confidence=0.95)

with figures.style():
    figure, axes = figures.page(3, shared="x", height=1.7, width=figures.TWO_COLUMNS)
    figures.error_signal(courses, axes)
    figure.savefig(out)
print(f"{comparison.label}: {out}")
