"""What does each loss change, on every task?

python analysis/verdict_map.py runs/essay [out.png] [regression | classification]
"""

import sys

import pandas as pd

from lossbench import figures, records, statistics

sweep = records.load(sys.argv[1])
out = sys.argv[2] if len(sys.argv) > 2 else "verdict_map.png"
task = sys.argv[3] if len(sys.argv) > 3 else "classification"

mains = statistics.main_comparisons(sweep)
rows = [main.paired.assign(task=task) for main in mains if main.task == task]
paired = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()
if paired.empty:
    sys.exit(f"{sweep.sweep_dir} compares nothing in {task}")

with figures.style():
    height = 0.24 * paired.loss.nunique() + 0.75
    figure, axes = figures.page(height=height, width=figures.TWO_COLUMNS)
    figures.verdict_map(paired, axes[0])
    figure.savefig(out)
print(f"{paired.context.nunique()} tasks of {task}: {out}")
