"""How much more than with the reference does a learning rate cost that is drawn blindly?

python analysis/blind_learning_rate.py runs/z_loss
"""

import argparse

import numpy as np

from lossbench import records, statistics
from lossbench.report.words import interval

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("sweep", help="folder of the sweep")
sweep = records.load(parser.parse_args().sweep)

for comparison in statistics.Verdicts(sweep).mains:
    rows = comparison.sensitivity
    rows = rows[np.isfinite(rows.more)].sort_values("more")
    texts = [
        f"{row.loss} {interval(row.more, row.more_low, row.more_high, sign=True)}, {row.verdict}"
        for row in rows.itertuples()
    ]
    if texts:
        print(
            f"{comparison.label}: how much more a learning rate drawn blindly from the "
            f"{rows.rates.max():g} costs than with {comparison.reference}, in {comparison.metric} "
            f"on test over {len(comparison.declared.first_seeds)} seeds; below zero a loss is less "
            f"sensitive, which is better: {'; '.join(texts)}."
        )
