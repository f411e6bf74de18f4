"""Do the intervals cover, and how often does a family of verdicts claim what is not there?

Question: coverage of the paired-t interval (the verdicts), of bootstrap-t (a robustness column) and
of the percentile bootstrap (not used, and this is why); false claims of 1, 7 and 19 losses that
share one reference. Every shape has mean zero, so every claim of a difference is false.
Command: python benchmarks/coverage.py [REPLICATES], 4,000 by default: half a minute on one core.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np

from lossbench import statistics

REPLICATES = 4_000
CONFIDENCE = 0.95
PAIRS = (10, 20)
LOSSES = (1, 7, 19)
FAMILY_PAIRS = 10

Sample = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def bimodal(draw: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Two equal normal bumps whose means lie four standard deviations apart."""
    return draw.choice([-2.0, 2.0], size=shape) + draw.normal(size=shape)


def outliers(draw: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal, and one value in ten with ten times the standard deviation."""
    return draw.normal(size=shape) * np.where(draw.random(shape) < 0.1, 10.0, 1.0)


SHAPES: dict[str, Sample] = {
    "normal": lambda draw, shape: draw.normal(size=shape),
    "uniform": lambda draw, shape: draw.uniform(-1, 1, size=shape),
    "laplace": lambda draw, shape: draw.laplace(size=shape),
    "student_t(5)": lambda draw, shape: draw.standard_t(5, size=shape),
    "student_t(3)": lambda draw, shape: draw.standard_t(3, size=shape),
    "bimodal": bimodal,
    "10 % outliers": outliers,
    "exponential": lambda draw, shape: draw.exponential(size=shape) - 1,
    "lognormal": lambda draw, shape: draw.lognormal(size=shape) - np.exp(0.5),
}


def percentile(values: np.ndarray, *, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap interval of the mean, for comparison only; values are [..., n]."""
    counts = statistics.resamples(values.shape[-1], draws=1_999)
    means = values @ counts.T / values.shape[-1]
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(means, tails, axis=-1, method="higher")
    return low, high


INTERVALS = {
    "paired t": statistics.t_interval,
    "bootstrap-t": statistics.bootstrap_t,
    "percentile": percentile,
}


def coverage(shape: str, interval: str, *, pairs: int, replicates: int) -> statistics.Estimate:
    """Share of intervals that contain the true mean, zero, with its exact 95 % interval."""
    draw = np.random.default_rng([pairs, *shape.encode()])  # one sample for all kinds of interval
    low, high = INTERVALS[interval](SHAPES[shape](draw, (replicates, pairs)), confidence=CONFIDENCE)
    return statistics.share(int(((low <= 0) & (high >= 0)).sum()), replicates)


def false_claims(losses: int, *, pairs: int, replicates: int) -> statistics.Estimate:
    """Share of families with a false claim; `high` is the exact one-sided 99 % upper limit."""
    draw = np.random.default_rng([losses, pairs])
    reference = draw.normal(size=(replicates, 1, pairs))  # its noise is in every difference
    differences = draw.normal(size=(replicates, losses, pairs)) - reference
    low, high = statistics.t_interval(differences, confidence=1 - (1 - CONFIDENCE) / losses)
    claims = ((low > 0) | (high < 0)).any(-1)
    return statistics.share(int(claims.sum()), replicates, confidence=0.98)


def table(replicates: int) -> str:
    """Both results as Markdown."""
    columns = [(interval, pairs) for interval in INTERVALS for pairs in PAIRS]
    lines = [
        f"Coverage of 95 % intervals, {replicates:,} replicates each:",
        "",
        f"| shape | {' | '.join(f'{interval}, n = {pairs}' for interval, pairs in columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for shape in SHAPES:
        found = [coverage(shape, kind, pairs=n, replicates=replicates) for kind, n in columns]
        lines.append(f"| {shape} | {' | '.join(f'{one.value:.3f}' for one in found)} |")
    lines += [
        "",
        f"False claims of any difference in a family, n = {FAMILY_PAIRS}, {replicates:,} families:",
        "",
        "| losses beside the reference | families with a false claim | upper 99 % limit |",
        "|---|---|---|",
    ]
    for losses in LOSSES:
        found = false_claims(losses, pairs=FAMILY_PAIRS, replicates=replicates)
        lines.append(f"| {losses} | {found.value:.4f} | {found.high:.4f} |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables and how long they took."""
    start = time.perf_counter()
    print(table(int(sys.argv[1]) if len(sys.argv) > 1 else REPLICATES))
    print(f"\n{time.perf_counter() - start:.0f} s on one core")


if __name__ == "__main__":
    main()
