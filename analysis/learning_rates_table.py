"""How much does the learning rate matter, and is its choice settled? One CSV.

python analysis/learning_rates_table.py runs/essay [out.csv]
"""

import argparse
from pathlib import Path

import pandas as pd

from lossbench import records, statistics

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("sweep", help="folder of the sweep")
parser.add_argument("out", nargs="?", default="learning_rates_table.csv", help="file to write")
options = parser.parse_args()
sweep, out = records.load(options.sweep), options.out

rows = []
for comparison in statistics.Verdicts(sweep):
    metric = comparison.rates.metric.iloc[0]
    sensitivity = statistics.sensitivity(comparison.grid, metric=metric)
    stability = comparison.stability[[*statistics.FACTS, "best_lr", "stability", "plausible"]]
    rows.append(sensitivity.merge(stability, on=statistics.FACTS, how="left"))

Path(out).write_text(pd.concat(rows).to_csv(index=False), encoding="utf-8")
print(out)
