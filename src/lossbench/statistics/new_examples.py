"""Part of a difference's variance that comes from the choice of the test examples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd


def variance_of_examples(values: np.ndarray) -> float:
    """Variance of the mean difference due to the test examples, for any number of seeds.

    Seeds and examples are crossed; the result is the unbiased estimate in a two-way layout with
    random effects, and 0 if the estimate is negative.

    Args:
        values: Contribution of each of m examples to the difference with each of n seeds, [n, m];
            n and m are above 1.

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
    """Contributions of test examples to the metric of runs, [runs, m]; None if any is missing.

    Args:
        examples: Table `examples`, of one metric.
        run_ids: Identities of the runs, in the order of the rows.
    """
    mine = examples[examples.run_id.isin(run_ids)]
    table = mine.pivot(index="run_id", columns="example", values="value")  # noqa: PD010
    if len(table) < len(run_ids) or table.isna().any(axis=None):
        return None
    return table.loc[[*run_ids]].to_numpy(dtype=float)
