"""What does the sweep say, in sentences?

python analysis/verdicts.py runs/essay [part of a task's label]
"""

import argparse

from lossbench import records, statistics
from lossbench.report import objections, words

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("sweep", help="folder of the sweep")
parser.add_argument("label", nargs="?", default="", help="part of a task's label")
options = parser.parse_args()
sweep, label = records.load(options.sweep), options.label

comparisons = statistics.Verdicts(sweep).comparisons
for comparison in comparisons:
    if label in comparison.label:
        for _, row in words.verdicts_of(comparison).iterrows():
            print(words.sentence(row))
for objection in objections.of_sweep(sweep, comparisons):
    print(f"Objection: {objection}")
