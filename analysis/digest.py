"""The whole sweep on one page of Markdown: every verdict, then the answers it was asked for.

python analysis/digest.py runs/essay [out.md]
"""

import sys
from pathlib import Path

from lossbench import records, report
from lossbench.report import essay, summary

found = records.load(sys.argv[1])
out = Path(sys.argv[2] if len(sys.argv) > 2 else "digest.md")
lines = []

for group in report.by_context(report.comparisons(found)):
    main = report.main_of(group)
    others = {one.condition: one for one in group if one is not main}
    heads = ["loss", f"{main.metric} minus {main.reference}", "verdict", *others]
    base = next(
        (row for row in summary.rows(main, found.plan) if row["verdict"] == "reference"), {}
    )
    told = f"{main.reference} {base.get('short', 'absent')}, n = {main.summary.n.max()}"
    lines += [f"### {main.label}", "", f"{told}, {main.steps} updates.", ""]
    lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    elsewhere = {name: one.verdicts.set_index("loss").verdict for name, one in others.items()}
    for row in main.verdicts.itertuples():
        interval = f"{row.estimate:+.3g} [{row.low:+.3g}, {row.high:+.3g}]"
        cells = [elsewhere[name].get(row.loss, "") for name in others]
        lines.append(f"| {' | '.join([row.loss, interval, row.verdict, *cells])} |")
    lines.append("")

for answer in essay.of_sweep(found):
    lines += [f"### {answer.claim}", "", answer.verdict, "", *answer.measured, ""]

out.write_text("\n".join(lines))
print(f"{found.sweep_dir}: {out}")
