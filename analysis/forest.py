"""Does another loss beat the reference?

python analysis/forest.py runs/essay [out.png] [part of a task's label]
"""

import argparse
import sys

from lossbench import figures, records, statistics

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("sweep", help="folder of the sweep")
parser.add_argument("out", nargs="?", default="forest.png", help="file to write")
parser.add_argument("label", nargs="?", default="", help="part of a task's label")
options = parser.parse_args()
sweep, out, label = records.load(options.sweep), options.out, options.label

comparison = statistics.Verdicts(sweep).main(label)
paired = comparison.paired  # what `statistics.paired` makes of comparison.runs, as it was declared
if paired.empty:
    lacking = f"{comparison.label} has no other loss to compare with {comparison.reference}"
    sys.exit(f"{lacking}. {comparison.refusal}")

with figures.style():
    figure, axes = figures.page(height=0.32 * len(paired) + 0.2, width=figures.TWO_COLUMNS)
    figures.forest(paired, axes[0])
    figure.savefig(out)
print(f"{comparison.label}: {out}")
