"""How much of a difference between losses do the size and the weights of the gradients make?

python analysis/signal_parts.py runs/decomposition
"""

import argparse

from lossbench import records, statistics
from lossbench.report.words import interval

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("sweep", help="folder of the sweep")
sweep = records.load(parser.parse_args().sweep)

first_of_data = {}
for comparison in statistics.Verdicts(sweep).mains:
    first_of_data.setdefault(comparison.runs.data.iloc[0], comparison)
for data, comparison in first_of_data.items():
    split, metric, reference = comparison.split, comparison.metric, comparison.reference
    lr = float(comparison.runs.lr[comparison.runs.loss == reference].iloc[0])
    runs = sweep.runs[(sweep.runs.data == data) & (sweep.runs.lr == lr)]
    runs = statistics.placed(runs, tuned=["signal"])
    ends = statistics.endpoint(runs, sweep.measured, split=split, metric=metric)
    parts = statistics.decomposition(ends, metric=metric, reference=reference)
    for loss, rows in parts.groupby("loss"):
        texts = [
            f"{row.part} {interval(row.value, row.low, row.high, sign=True)}"
            for row in rows.itertuples()
        ]
        print(
            f"{loss} minus {reference} in {metric} on {data} at learning rate {lr:g}, "
            f"n = {rows.n.max()} seeds: {', '.join(texts)}."
        )
