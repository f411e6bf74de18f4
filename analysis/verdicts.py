"""What does the sweep say, in sentences?

python analysis/verdicts.py runs/essay [part of a task's label]
"""

import sys

from lossbench import records, statistics

sweep = records.load(sys.argv[1])
label = sys.argv[2] if len(sys.argv) > 2 else ""

comparisons = statistics.all_comparisons(sweep)
for comparison in comparisons:
    if label in comparison.label:
        for _, row in comparison.verdicts.iterrows():
            print(statistics.sentence(row))
for objection in statistics.objections(sweep, comparisons):
    print(f"Objection: {objection}")
