"""Over which learning rates does each loss stay within the margin of its best?

python analysis/good_learning_rates.py runs/learning_rate
"""

import argparse
import math

from lossbench import records, statistics

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("sweep", help="folder of the sweep")
sweep = records.load(parser.parse_args().sweep)

for comparison in statistics.Verdicts(sweep).mains:
    label, select = comparison.label, comparison.rule.select
    if select != comparison.metric:
        print(
            f"{label}: learning rates were chosen by {select}, and the margin is one in "
            f"{comparison.metric}: which rates are good enough is not said."
        )
        continue
    rates, margin = statistics.excess(comparison.rates), comparison.margin.value
    good = rates[(rates.cost <= margin) & (rates.diverged == 0)]
    ends = good.groupby("loss").lr.agg(["min", "max"])
    ends = ends.assign(width=ends["max"] / ends["min"]).sort_values("width", ascending=False)
    texts = [
        f"{row.Index} {row.min:g} to {row.max:g} ({math.log10(row.width):.1f} decades)"
        for row in ends.itertuples()
    ]
    print(
        f"{label}: learning rates that cost at most {margin:g} in {select} on validation, "
        f"n = {comparison.grid.seed.nunique()} seeds: {', '.join(texts)}."
    )
