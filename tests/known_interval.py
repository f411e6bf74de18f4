"""The interval of a mean that verdicts rest on, written out with scipy alone."""

import numpy as np
from scipy import stats


def interval(values, confidence):
    """Mean, lower and upper end: t, longer by the skewness that differences may have."""
    n, error = len(values), stats.sem(values)
    t = stats.t.ppf(0.5 + confidence / 2, n - 1)
    skewness = stats.skew(values, bias=False)
    below, above = (
        t + max(0.75, 2 * towards) * (2 * t**2 + 1) / (6 * np.sqrt(n))
        for towards in (-skewness, skewness)
    )
    mean = np.mean(values)
    return mean, mean - below * error, mean + above * error
