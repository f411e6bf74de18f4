"""What does each loss feed back while it learns?

python analysis/error_signal.py runs/essay [out.png] [part of a task's label]
"""

import argparse

from lossbench import figures, records, statistics

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("sweep", help="folder of the sweep")
parser.add_argument("out", nargs="?", default="error_signal.png", help="file to write")
parser.add_argument("label", nargs="?", default="", help="part of a task's label")
options = parser.parse_args()
sweep, out, label = records.load(options.sweep), options.out, options.label

comparison = statistics.Verdicts(sweep).main(label)
trajectories = statistics.trajectories(sweep, comparison.runs, confidence=0.95)

with figures.style():
    figure, axes = figures.page(3, shared="x", height=1.7, width=figures.TWO_COLUMNS)
    figures.error_signal(trajectories, axes)
    figure.savefig(out)
print(f"{comparison.label}: {out}")
