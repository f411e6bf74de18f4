"""Which losses arrive at their own Bayes point, and which end furthest from it?

python analysis/bayes_points.py runs/bayes_points
"""

import argparse

from lossbench import records, statistics
from lossbench.report.words import interval

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("sweep", help="folder of the sweep")
sweep = records.load(parser.parse_args().sweep)

for comparison in statistics.Verdicts(sweep).mains:
    summary, margin = comparison.summary, comparison.margin.value
    rows = summary[(summary.metric == "tv_bayes") & (summary.n > 0)]
    arrived = sorted(rows.loss[rows.high < margin])
    others = rows[~(rows.high < margin)].sort_values("value", ascending=False)
    texts = [f"{row.loss} {interval(row.value, row.low, row.high)}" for row in others.itertuples()]
    rest = f" The others: {', '.join(texts)}." if texts else ""
    print(
        f"{comparison.label}: {len(arrived)} of {len(rows)} losses end less than {margin:g} (total "
        f"variation, upper end of the interval) from their own Bayes point: "
        f"{', '.join(arrived) or 'none'}.{rest}"
    )
