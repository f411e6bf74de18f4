"""Does the verdict hold at other learning rates?

python analysis/conditions.py runs/essay [out.png] [part of a task's label]
"""

import sys

import pandas as pd

from lossbench import figures, records, report

sweep = sys.argv[1]
out = sys.argv[2] if len(sys.argv) > 2 else "conditions.png"
wanted = sys.argv[3] if len(sys.argv) > 3 else ""

found = records.load(sweep)
task = report.chosen(found, wanted)
alike = [one for one in report.comparisons(found) if one.label == task.label and len(one.paired)]
if not alike:
    sys.exit(f"{task.label} has no other loss to compare with {task.reference}. {task.refusal}")
short = {name: condition.short for name, condition in records.CONDITIONS.items()}
rows = pd.concat([one.paired.assign(setting=short[one.condition]) for one in alike])

with figures.style():
    figure, axes = figures.page(height=0.4 * rows.loss.nunique() + 0.45, width=figures.TWO_COLUMNS)
    figures.side_by_side(
        rows.reset_index(drop=True),
        axes[0],
        question=f"Does the verdict hold at other learning rates on {task.label}?",
        note=f"The reference is {task.reference}.",
    )
    figure.savefig(out)
print(f"{task.label}: {out}")
