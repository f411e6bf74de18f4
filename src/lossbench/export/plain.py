"""Verdicts as plain values, for programs: the output of `lossbench report runs/NAME --json`."""

from __future__ import annotations

from typing import Any

from lossbench import records, statistics, store
from lossbench.report import objections, words

SCHEMA = 1

FIELDS = {
    "context": "data and model",
    "loss": "what is compared",
    "reference": "with what",
    "condition": "at which learning rates; own_lr is the fair one",
    "metric": "in which test metric",
    "unit": "of estimate, low, high and margin",
    "direction": "lower or higher is better",
    "verdict": "in words; better, worse, equivalent, different, undecided, diverges, ...",
    "estimate": "loss - reference, mean (or median) over seeds",
    "low": "of the simultaneous interval, which holds seeds and the choice of learning rates",
    "high": "likewise",
    "confidence": "of all intervals of a context together",
    "target_scale": "one unit of the metric in target_unit; null where that means nothing",
    "target_unit": "the target's own",
    "margin": "below it a difference is of no practical weight",
    "n": "pairs of runs, one a seed",
    "value": "the loss's mean (or median) over these pairs",
    "reference_value": "the reference's",
    "average": "mean or median, over seeds",
    "exploratory": "true: not declared before the runs, or of seeds that had been seen",
    "seeds_needed": "estimated number of seeds that would decide an undecided comparison",
    "lr": "the loss's learning rate",
    "reference_lr": "the reference's",
    "sentence": "all of it in a sentence",
}
"""Fields of each verdict, with descriptions; numbers that do not exist are null."""


def rows(comparison: statistics.Comparison) -> list[dict[str, object]]:
    """Verdicts of a comparison, with `FIELDS`."""
    verdicts = words.verdicts_of(comparison)
    complete = verdicts.assign(sentence=[*map(words.sentence, verdicts.to_dict("records"))])
    return [store.plain(row) for row in complete[[*FIELDS]].to_dict("records")]


def verdicts(judged: statistics.Verdicts) -> dict[str, Any]:
    """A sweep's verdicts, the objections to them, and the number of runs by status."""
    comparisons, loaded = judged.comparisons, judged.sweep
    counts = loaded.runs.status.value_counts().to_dict()
    return {
        "schema": SCHEMA,
        "name": loaded.plan["name"],
        "question": loaded.plan.get("question", ""),
        "runs": {status: int(counts.get(status, 0)) for status in records.STATUSES},
        "objections": [*objections.of_sweep(loaded, comparisons)],
        "verdicts": [row for one in comparisons for row in rows(one)],
    }
