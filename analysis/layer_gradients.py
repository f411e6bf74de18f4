"""Which layers does each loss move?

python analysis/layer_gradients.py runs/essay [out.png] [part of a task's label]
"""

import sys

from lossbench import figures, records, statistics

sweep = records.load(sys.argv[1])
out = sys.argv[2] if len(sys.argv) > 2 else "layer_gradients.png"
label = sys.argv[3] if len(sys.argv) > 3 else ""

comparison = statistics.main_comparison(sweep, label)
layers = statistics.courses(sweep, comparison.runs, table="layers", confidence=0.95)

with figures.style():
    figure, axes = figures.page(layers.layer.nunique(), width=figures.TWO_COLUMNS)
    figures.layer_gradients(layers, axes)
    figure.savefig(out)
print(f"{comparison.label}: {out}")
