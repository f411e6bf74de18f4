"""Do other tests say the same, and do results of a loss spread more over seeds? One CSV.

python analysis/robustness_table.py runs/essay [out.csv]
"""

import sys
from pathlib import Path

import pandas as pd

from lossbench import records, statistics

sweep = records.load(sys.argv[1])
out = sys.argv[2] if len(sys.argv) > 2 else "robustness_table.csv"

rows = []
for comparison in statistics.all_comparisons(sweep):
    pairs = comparison.paired
    if len(pairs):
        ratio = statistics.spread_ratio(
            comparison.runs, metric=comparison.metric, reference=comparison.reference
        )
        rows.append(pairs.assign(variance_ratio=pairs.loss.map(ratio.set_index("loss").value)))

columns = ["label", "condition", "loss", "metric", "difference", "low", "high", "verdict"]
columns += ["boot_low", "boot_high", "p_holm", "p_wilcoxon_holm", "wins", "trials"]
table = pd.concat(rows)[[*columns, "variance_ratio"]] if rows else pd.DataFrame(columns=columns)
Path(out).write_text(table.to_csv(index=False), encoding="utf-8")
print(out)
