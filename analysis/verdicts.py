"""What does the sweep say, in sentences?

python analysis/verdicts.py runs/essay [part of a task's label]
"""

import sys

from lossbench import records, report, statistics

sweep = sys.argv[1]
wanted = sys.argv[2] if len(sys.argv) > 2 else ""

found = records.load(sweep)
for task in report.comparisons(found):
    if wanted in task.label:
        for _, row in task.verdicts.iterrows():
            print(statistics.sentence(row))
for objection in report.objections(found, report.comparisons(found)):
    print(f"Objection: {objection}")
