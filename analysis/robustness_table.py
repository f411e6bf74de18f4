"""Do other tests say the same, and do results of a loss spread more over seeds? One CSV.

python analysis/robustness_table.py runs/essay [out.csv]
"""

import sys
from pathlib import Path

import pandas as pd

from lossbench import records, report, statistics

sweep = sys.argv[1]
out = sys.argv[2] if len(sys.argv) > 2 else "robustness_table.csv"

rows = []
for task in report.comparisons(records.load(sweep)):
    if len(task.paired):
        about = {"metric": task.metric, "reference": task.reference}
        spread = statistics.spread_ratio(task.runs, **about).set_index("loss").value
        rows.append(task.paired.assign(variance_ratio=task.paired.loss.map(spread)))

columns = ["label", "condition", "loss", "metric", "difference", "low", "high", "verdict"]
columns += ["boot_low", "boot_high", "p_holm", "p_wilcoxon_holm", "wins", "trials"]
table = pd.concat(rows)[[*columns, "variance_ratio"]] if rows else pd.DataFrame(columns=columns)
Path(out).write_text(table.to_csv(index=False), encoding="utf-8")
print(out)
