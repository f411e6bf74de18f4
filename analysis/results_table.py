"""Every metric of every loss, with its interval: one CSV for a paper's table.

python analysis/results_table.py runs/essay [out.csv]
"""

import argparse
from pathlib import Path

import pandas as pd

from lossbench import records, statistics

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("sweep", help="folder of the sweep")
parser.add_argument("out", nargs="?", default="results_table.csv", help="file to write")
options = parser.parse_args()
sweep, out = records.load(options.sweep), options.out

rows = []
for comparison in statistics.Verdicts(sweep).comparisons:
    metrics = [name for name in records.METRICS if name in comparison.runs]
    rows.append(statistics.summary(comparison.runs, metrics=metrics, confidence=0.95))

table = pd.concat(rows).dropna(subset="value")
table["text"] = [f"{r.value:.4g} [{r.low:.4g}, {r.high:.4g}]" for r in table.itertuples()]
index = ["label", "condition", "loss", "lr", "n", "planned", "diverged"]
wide = table.pivot_table(index=index, columns="metric", values="text", aggfunc="first")
Path(out).write_text(wide.to_csv(), encoding="utf-8")
print(out)
