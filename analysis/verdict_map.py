"""What does each loss change, on every task?

python analysis/verdict_map.py runs/essay [out.png] [regression | classification]
"""

import argparse
import sys

import pandas as pd

from lossbench import figures, records, statistics

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("sweep", help="folder of the sweep")
parser.add_argument("out", nargs="?", default="verdict_map.png", help="file to write")
parser.add_argument(
    "task", nargs="?", default="classification", help="regression or classification"
)
options = parser.parse_args()
sweep, out, task = records.load(options.sweep), options.out, options.task

mains = statistics.Verdicts(sweep)
rows = [main.paired.assign(task=task) for main in mains if main.task == task]
paired = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()
if paired.empty:
    sys.exit(f"{sweep.sweep_dir} compares nothing in {task}")

with figures.style():
    height = 0.24 * paired.loss.nunique() + 0.75
    figure, axes = figures.page(height=height, width=figures.TWO_COLUMNS)
    figures.verdict_map(paired, axes[0])
    figure.savefig(out)
print(f"{paired.context.nunique()} contexts of {task}: {out}")
