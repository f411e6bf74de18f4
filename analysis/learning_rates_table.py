"""How much does the learning rate matter, and is its choice settled? One CSV.

python analysis/learning_rates_table.py runs/essay [out.csv]
"""

import sys
from pathlib import Path

import pandas as pd

from lossbench import records, statistics

sweep = records.load(sys.argv[1])
out = sys.argv[2] if len(sys.argv) > 2 else "learning_rates_table.csv"

rows = []
for comparison in statistics.main_comparisons(sweep):
    metric = comparison.rates.metric.iloc[0]
    sensitivity = statistics.sensitivity(comparison.grid, metric=metric)
    stability = comparison.stability[[*statistics.FACTS, "best_lr", "stability", "plausible"]]
    rows.append(sensitivity.merge(stability, on=statistics.FACTS, how="left"))

Path(out).write_text(pd.concat(rows).to_csv(index=False), encoding="utf-8")
print(out)
