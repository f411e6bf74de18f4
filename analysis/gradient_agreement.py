"""Do the gradients of losses, and those of the examples of a batch, point the same way?

python analysis/gradient_agreement.py runs/gradient_agreement
"""

import argparse

from lossbench import records, statistics

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("sweep", help="folder of the sweep")
sweep = records.load(parser.parse_args().sweep)
on_train = sweep.measured[sweep.measured.split == "train"]

for comparison in statistics.Verdicts(sweep).mains:
    values = statistics.joined(on_train, comparison.runs).groupby(["metric", "loss"]).value
    reference, averages = comparison.reference, {}
    averages[f"agreement:{reference}"] = (
        f"cosine of the gradients of all parameters of a loss and {reference}, mean along training",
        values.mean(),
    )
    averages["gradient_noise_scale"] = (
        "batch size at which noise and gradient are alike, median along training",
        values.median(),
    )
    for metric, (meaning, average) in averages.items():
        if metric in average:
            by_loss = average[metric].dropna().sort_values(ascending=False)
            texts = [f"{loss} {value:.3g}" for loss, value in by_loss.items()]
            print(f"{comparison.label}: {meaning}: {', '.join(texts)}.")
