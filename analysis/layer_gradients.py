"""Which layers does each loss move?

python analysis/layer_gradients.py runs/essay [out.png] [part of a task's label]
"""

import sys

from lossbench import figures, records, report, statistics

sweep = sys.argv[1]
out = sys.argv[2] if len(sys.argv) > 2 else "layer_gradients.png"
wanted = sys.argv[3] if len(sys.argv) > 3 else ""

found = records.load(sweep)
task = report.chosen(found, wanted)
layers = statistics.courses(found, task.runs, table="layers", confidence=0.95)

with figures.style():
    figure, axes = figures.page(layers.layer.nunique(), width=figures.TWO_COLUMNS)
    figures.layer_gradients(layers, axes)
    figure.savefig(out)
print(f"{task.label}: {out}")
