"""Does another loss beat the reference?

python analysis/forest.py runs/essay [out.png] [part of a task's label]
"""

import sys

from lossbench import figures, records, statistics

sweep = records.load(sys.argv[1])
out = sys.argv[2] if len(sys.argv) > 2 else "forest.png"
label = sys.argv[3] if len(sys.argv) > 3 else ""

comparison = statistics.main_comparison(sweep, label)
paired = comparison.paired  # what `statistics.paired` makes of comparison.runs, as it was declared
if paired.empty:
    lacking = f"{comparison.label} has no other loss to compare with {comparison.reference}"
    sys.exit(f"{lacking}. {comparison.refusal}")

with figures.style():
    figure, axes = figures.page(height=0.32 * len(paired) + 0.2, width=figures.TWO_COLUMNS)
    figures.forest(paired, axes[0])
    figure.savefig(out)
print(f"{comparison.label}: {out}")
