"""What does a verdict rest on? One CSV.

python analysis/robustness_table.py runs/essay [out.csv]
"""

import argparse
from pathlib import Path

import pandas as pd

from lossbench import records, statistics

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("sweep", help="folder of the sweep")
parser.add_argument("out", nargs="?", default="robustness_table.csv", help="file to write")
options = parser.parse_args()
sweep, out = records.load(options.sweep), options.out

rows = [one.paired for one in statistics.Verdicts(sweep).comparisons if len(one.paired)]
columns = ["label", "condition", "loss", "metric", "difference", "low", "high", "verdict"]
columns += ["fixed_low", "fixed_high", "boot_low", "boot_high", "median", "won", "pairs"]
table = pd.concat(rows)[columns] if rows else pd.DataFrame(columns=columns)
Path(out).write_text(table.to_csv(index=False), encoding="utf-8")
print(out)
