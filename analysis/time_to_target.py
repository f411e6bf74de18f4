"""How soon does each loss reach the target that was declared beforehand?

python analysis/time_to_target.py runs/essay [out.png] [part of a task's label]
"""

import argparse
import sys

from lossbench import figures, records, statistics

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("sweep", help="folder of the sweep")
parser.add_argument("out", nargs="?", default="time_to_target.png", help="file to write")
parser.add_argument("label", nargs="?", default="", help="part of a task's label")
options = parser.parse_args()
sweep, out, label = records.load(options.sweep), options.out, options.label

comparison = statistics.Verdicts(sweep).main(label)
times = comparison.times_to_target
if times.empty:
    sys.exit(f"{comparison.label} has no declared target")
print(times[["loss", "metric", "target", "median", "reached", "n"]].to_string(index=False))

with figures.style():
    figure, axes = figures.page(height=1.8, width=figures.ONE_COLUMN)
    figures.time_to_target(times.assign(task=comparison.task), axes)
    figure.savefig(out)
print(f"{comparison.label}: {out}")
