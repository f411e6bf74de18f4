"""How many updates does each loss take to the target that was declared beforehand?

python analysis/updates_needed.py runs/time_to_target
"""

import argparse

from lossbench import records, statistics
from lossbench.report.words import updates_taken

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("sweep", help="folder of the sweep")
sweep = records.load(parser.parse_args().sweep)

for comparison in statistics.Verdicts(sweep).mains:
    times = comparison.times_to_target
    if len(times):
        first = times.iloc[0]
        texts = [updates_taken(row) for row in times.sort_values("median").to_dict("records")]
        print(
            f"{comparison.label}: updates until {first.metric} {first.target:g} on validation, "
            f"median over seeds, each at its own rate: {', '.join(texts)}."
        )
