"""Has each loss converged, how fast, and with what gradients? One CSV.

python analysis/convergence_table.py runs/essay [out.csv]
"""

import argparse
from pathlib import Path

import pandas as pd

from lossbench import records, statistics

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("sweep", help="folder of the sweep")
parser.add_argument("out", nargs="?", default="convergence_table.csv", help="file to write")
options = parser.parse_args()
sweep, out = records.load(options.sweep), options.out

signals = statistics.signals(sweep)
rows = []
for comparison in statistics.Verdicts(sweep).comparisons:
    runs = statistics.convergence(comparison.runs, signals, sweep.evals)
    rows.append(statistics.converged(runs))

Path(out).write_text(pd.concat(rows).to_csv(index=False), encoding="utf-8")
print(out)
