"""Which layers does each loss move?

python analysis/layer_gradients.py runs/essay [out.png] [part of a task's label]
"""

import argparse

from lossbench import figures, records, statistics

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("sweep", help="folder of the sweep")
parser.add_argument("out", nargs="?", default="layer_gradients.png", help="file to write")
parser.add_argument("label", nargs="?", default="", help="part of a task's label")
options = parser.parse_args()
sweep, out, label = records.load(options.sweep), options.out, options.label

comparison = statistics.Verdicts(sweep).main(label)
layers = statistics.trajectories(sweep, comparison.runs, table="layers", confidence=0.95)

with figures.style():
    figure, axes = figures.page(layers.layer.nunique(), width=figures.TWO_COLUMNS)
    figures.layer_gradients(layers, axes)
    figure.savefig(out)
print(f"{comparison.label}: {out}")
