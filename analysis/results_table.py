"""Every metric of every loss, with its interval: one CSV for a paper's table.

python analysis/results_table.py runs/essay [out.csv]
"""

import sys
from pathlib import Path

import pandas as pd

from lossbench import records, statistics

sweep = records.load(sys.argv[1])
out = sys.argv[2] if len(sys.argv) > 2 else "results_table.csv"

rows = []
for comparison in statistics.all_comparisons(sweep):
    metrics = [name for name in records.METRICS if name in comparison.runs]
    rows.append(statistics.summary(comparison.runs, metrics=metrics, confidence=0.95))

table = pd.concat(rows).dropna(subset="value")
table["text"] = [f"{r.value:.4g} [{r.low:.4g}, {r.high:.4g}]" for r in table.itertuples()]
index = ["label", "condition", "loss", "lr", "n", "planned", "diverged"]
wide = table.pivot_table(index=index, columns="metric", values="text", aggfunc="first")
Path(out).write_text(wide.to_csv(), encoding="utf-8")
print(out)
