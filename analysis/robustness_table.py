"""What does a verdict rest on? One CSV.

python analysis/robustness_table.py runs/essay [out.csv]
"""

import sys
from pathlib import Path

import pandas as pd

from lossbench import records, statistics

sweep = records.load(sys.argv[1])
out = sys.argv[2] if len(sys.argv) > 2 else "robustness_table.csv"

rows = [one.paired for one in statistics.all_comparisons(sweep) if len(one.paired)]
columns = ["label", "condition", "loss", "metric", "difference", "low", "high", "verdict"]
columns += ["fixed_low", "fixed_high", "boot_low", "boot_high", "median", "won", "pairs"]
table = pd.concat(rows)[columns] if rows else pd.DataFrame(columns=columns)
Path(out).write_text(table.to_csv(index=False), encoding="utf-8")
print(out)
