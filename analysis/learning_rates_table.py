"""How much does the learning rate matter, and is its choice settled? One CSV.

python analysis/learning_rates_table.py runs/essay [out.csv]
"""

import sys
from pathlib import Path

import pandas as pd

from lossbench import records, report, statistics

sweep = sys.argv[1]
out = sys.argv[2] if len(sys.argv) > 2 else "learning_rates_table.csv"

rows = []
for task in map(report.main_of, report.by_context(report.comparisons(records.load(sweep)))):
    metric = task.rates.metric.iloc[0]
    matters = statistics.sensitivity(task.grid, metric=metric)
    settled = task.settled[[*statistics.FACTS, "stability", "plausible"]]
    rows.append(matters.merge(settled, on=statistics.FACTS, how="left"))

Path(out).write_text(pd.concat(rows).to_csv(index=False), encoding="utf-8")
print(out)
