"""The whole sweep on one page of Markdown: every verdict, then what it says of the essay.

python analysis/digest.py runs/essay [out.md]
"""

import argparse
from pathlib import Path

from lossbench import records, statistics
from lossbench.report import essay, summary, words

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("sweep", help="folder of the sweep")
parser.add_argument("out", nargs="?", default="digest.md", help="file to write")
options = parser.parse_args()
sweep, out = records.load(options.sweep), Path(options.out)
lines = []

verdicts = statistics.Verdicts(sweep)
for main, *others in verdicts.contexts():
    value = "absent"
    for row in summary.rows(main, sweep.plan):
        if row["verdict"] == "reference":
            value = row["short"]
    sizes = f"n = {main.summary.n.max()}, {main.steps} updates."
    lines += [f"### {main.label}", "", f"{main.reference} {value}, {sizes}", ""]
    heads = ["loss", f"{main.metric} minus {main.reference}", "verdict"]
    heads += [comparison.condition for comparison in others]
    lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in words.verdicts_of(main).itertuples():
        interval = f"{row.estimate:+.3g} [{row.low:+.3g}, {row.high:+.3g}]"
        cells = [row.loss, interval, row.verdict]
        for comparison in others:
            cells.append(words.verdicts_of(comparison).set_index("loss").verdict.get(row.loss, ""))
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")

for finding in essay.of_sweep(verdicts):
    lines += [f"### {finding.says}", "", finding.verdict, "", *finding.measured, ""]

out.write_text("\n".join(lines))
print(f"{sweep.sweep_dir}: {out}")
