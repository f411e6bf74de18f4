"""Has each loss converged, how fast, and with what gradients? One CSV.

python analysis/convergence_table.py runs/essay [out.csv]
"""

import sys
from pathlib import Path

import pandas as pd

from lossbench import records, statistics

sweep = records.load(sys.argv[1])
out = sys.argv[2] if len(sys.argv) > 2 else "convergence_table.csv"

signals = statistics.signals(sweep)
rows = []
for comparison in statistics.all_comparisons(sweep):
    runs = statistics.convergence(comparison.runs, signals, sweep.evals)
    rows.append(statistics.converged(runs))

Path(out).write_text(pd.concat(rows).to_csv(index=False), encoding="utf-8")
print(out)
