"""Whether a difference carries over to new test examples: what they add to its variance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd


def variance_of_examples(values: np.ndarray) -> float:
    """Variance of the mean difference that the test examples make, however many seeds there are.

    Seeds and examples are crossed; the variance is its unbiased estimate in a two-way layout with
    random effects, and 0 where that is negative.

    Args:
        values: What each example adds to the difference with each seed, [n, m], both above 1.

    Source:
        Gallas 2006, Academic Radiology, for several readers and cases.
    """
    n, m = values.shape
    rows, columns = values.mean(1, keepdims=True), values.mean(0)
    rest = values - rows - columns + values.mean()
    of_columns = columns.var(ddof=1) / m
    of_rest = (rest**2).sum() / ((n - 1) * (m - 1)) / (n * m)
    return max(float(of_columns - of_rest), 0.0)


def contributions(examples: pd.DataFrame, run_ids: Sequence[str]) -> np.ndarray | None:
    """What each test example adds to the metric in each of some runs, [runs, m]; None without.

    Args:
        examples: Table `examples`, of one metric.
        run_ids: Of the runs, in the order of the rows.
    """
    mine = examples[examples.run_id.isin(run_ids)]
    table = mine.pivot(index="run_id", columns="example", values="value")  # noqa: PD010
    if len(table) < len(run_ids) or table.isna().any(axis=None):
        return None
    return table.loc[[*run_ids]].to_numpy(dtype=float)
