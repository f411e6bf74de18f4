"""Has each loss converged, how fast, and with what gradients? One CSV.

python analysis/convergence_table.py runs/essay [out.csv]
"""

import sys
from pathlib import Path

import pandas as pd

from lossbench import records, report, statistics

sweep = sys.argv[1]
out = sys.argv[2] if len(sys.argv) > 2 else "convergence_table.csv"

found = records.load(sweep)
signals = statistics.signals(found)
rows = [
    statistics.converged(statistics.convergence(task.runs, signals, found.evals))
    for task in report.comparisons(found)
]
Path(out).write_text(pd.concat(rows).to_csv(index=False), encoding="utf-8")
print(out)
