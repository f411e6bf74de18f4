"""A metric of each loss over the share of its training data that is corrupted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from lossbench import records
from lossbench.statistics.averages import counts
from lossbench.statistics.design import context_factors
from lossbench.statistics.intervals import estimate

RATE = "corruption.params.rate"
"""Factor in which the contexts of a curve differ, by its name in a recorded configuration."""

_BY = ["task", "condition", "loss", "family"]


def noise_curves(
    frame: pd.DataFrame, *, metric: str, tuned: Sequence[str] = (), confidence: float = 0.95
) -> pd.DataFrame:
    """A metric over the rates of a corruption, for contexts that differ in nothing else.

    A context without corruption that is otherwise equal counts as rate 0, if no other context does.

    Args:
        frame: From `endpoint`, one row a run; a loss has one learning rate in each context.
        metric: Column to average over the seeds that survived.
        tuned: Keys tuned beside the learning rate, as given to `placed`.
        confidence: Coverage of each interval, pointwise.

    Returns:
        Rows by `curve` (a number), label (without the corruption), corruption, task, condition,
        loss, family and `rate`: metric, value, low, high, n, `planned` and the counts by status.
        A corruption with its default rate, or with only one rate, has no rows.
    """
    rows = []
    for curve, (corruption, rates) in enumerate(_series(frame, tuned)):
        runs = frame[frame.context.isin([*rates])]
        parts = str(frame.label[frame.context == next(iter(rates))].iloc[0]).split(" · ")
        label = " · ".join(p for p in parts if not p.startswith(("corruption", "rate=")))
        shared = {"curve": curve, "label": label, "corruption": corruption}
        for facts, cell in runs.groupby(["context", *_BY], sort=False, dropna=False):
            row = shared | dict(zip(_BY, facts[1:], strict=True)) | {"rate": rates[facts[0]]}
            row |= {"metric": metric, "planned": len(cell), "confidence": confidence}
            rows.append(row | counts(cell) | vars(estimate(cell[metric], confidence=confidence)))
    columns = ["curve", "label", "corruption", *_BY, "rate", "metric", "value", "low", "high", "n"]
    table = pd.DataFrame(rows, columns=[*columns, "planned", *records.STATUSES, "confidence"])
    return table.sort_values(["curve", "condition", "loss", "rate"], ignore_index=True)


def _series(frame: pd.DataFrame, tuned: Sequence[str]) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Name of each corruption, and its rates by context."""
    clean: dict[str, str] = {}
    corrupted: dict[tuple[str, str, str], dict[str, float]] = {}
    known = frame[frame.config.notna() & (frame.config != "")].drop_duplicates("context")
    for row in known.itertuples():
        leaves = context_factors(str(row.config), tuned=tuned)
        noise = {key: leaves.pop(key) for key in [*leaves] if key.startswith("corruption.")}
        rate, rest = noise.pop(RATE, None), json.dumps(leaves, sort_keys=True)
        if noise.get("corruption.name", "none") == "none":
            clean[rest] = str(row.context)
        elif isinstance(rate, int | float):
            key = str(noise["corruption.name"]), json.dumps(noise, sort_keys=True), rest
            corrupted.setdefault(key, {})[str(row.context)] = float(rate)
    for (name, _, rest), rates in corrupted.items():
        if rest in clean and 0.0 not in rates.values():
            rates[clean[rest]] = 0.0
        if len(rates) > 1:
            yield name, rates
