"""Do the intervals cover, and how often does a family of verdicts claim what is not there?

Question: coverage of the verdicts' interval, of Student's t, of bootstrap-t (a robustness column)
and of the percentile bootstrap (not used, and this is why); false claims of families of 4, 7 and 20
losses over looks at 10, 20 and 40 seeds, where comparisons that are settled stop; what the interval
costs where noise is normal. Every shape has mean zero, so every claim of a difference is false.
Command: python benchmarks/coverage.py [REPLICATES], 4,000 by default: three minutes on one core.
"""

from __future__ import annotations

import functools
import itertools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lossbench import statistics

REPLICATES = 4_000
CONFIDENCE = 0.95
PAIRS = (10, 20)
LOSSES = (4, 7, 20)
LOOKS = (10, 20, 40)
MARGIN = 0.8
"""Of the families, in standard deviations of a difference."""

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
    "verdicts": statistics.mean_interval,
    "paired t": statistics.t_interval,
    "bootstrap-t": statistics.bootstrap_t,
    "percentile": percentile,
}


def coverage(shape: str, interval: str, *, pairs: int, replicates: int) -> statistics.Estimate:
    """Share of intervals that contain the true mean, zero, with its exact 95 % interval."""
    draw = np.random.default_rng([pairs, *shape.encode()])  # one sample for all kinds of interval
    low, high = INTERVALS[interval](SHAPES[shape](draw, (replicates, pairs)), confidence=CONFIDENCE)
    return statistics.share(int(((low <= 0) & (high >= 0)).sum()), replicates)


def one_bad_seed(draw: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal, and one seed in ten worse by five standard deviations; of variance 1, mean 0."""
    bad = (draw.random(shape) < 0.1) - 0.1
    return (draw.normal(size=shape) + 5 * bad) / np.sqrt(1 + 25 * 0.09)


NOISE: dict[str, Sample] = {
    "normal": SHAPES["normal"],
    "exponential": SHAPES["exponential"],
    "minus exponential": lambda draw, shape: -SHAPES["exponential"](draw, shape),
    "one bad seed in ten": one_bad_seed,
    "one good seed in ten": lambda draw, shape: -one_bad_seed(draw, shape),
}
"""What each loss's differences from the reference scatter by; standard deviation 1."""


@dataclass(frozen=True)
class Families:
    """What families of comparisons came to, when each was settled or had its last look.

    Attributes:
        words: [families, losses].
        seeds: Of the look at which each was read, likewise.
        missed: Whether an interval at any look misses the truth, settled or not, [families].
    """

    words: np.ndarray
    seeds: np.ndarray
    missed: np.ndarray


def judged(
    noise: str,
    losses: int,
    *,
    families: int,
    truth: float = 0.0,
    shares_noise: bool = False,
    looks: tuple[int, ...] = LOOKS,
    interval: Callable[..., tuple[np.ndarray, np.ndarray]] = statistics.mean_interval,
) -> Families:
    """Verdicts of simulated families of losses, each with the same true difference."""
    draw = np.random.default_rng([losses, *noise.encode()])
    values = truth + NOISE[noise](draw, (families, losses, looks[-1]))
    if shares_noise:  # the reference's own, in every difference of a family
        values += draw.normal(size=(families, 1, looks[-1]))
    words = np.full((families, losses), "undecided", dtype=object)
    seeds, missed = np.zeros((families, losses), int), np.zeros(families, bool)
    for look, n in enumerate(looks):
        level = statistics.level_at(look, looks, confidence=CONFIDENCE, comparisons=losses)
        low, high = interval(values[..., :n], confidence=level)
        missed |= ((low > truth) | (high < truth)).any(-1)
        is_open = np.vectorize(statistics.is_open)(words, MARGIN)
        now = np.vectorize(statistics.verdict, otypes=[object])(low, high, MARGIN)
        words, seeds = np.where(is_open, now, words), np.where(is_open, n, seeds)
    return Families(words, seeds, missed)


def false_claims(its: Families, *, beyond: bool = False) -> statistics.Estimate:
    """Share of families with a claim of a difference; `high` is the exact upper 99 % limit.

    Args:
        its: The families.
        beyond: Count only claims of more than the margin.
    """
    claims = ("better by more", "worse by more")
    if not beyond:
        claims += ("better", "worse", "below the margin")
    is_false = np.isin(its.words, claims).any(-1)
    return statistics.share(int(is_false.sum()), len(is_false), confidence=0.98)


def table_of_families(families: int) -> str:
    """False claims by noise and size of the family, as Markdown."""
    heads = ["noise of a difference", "losses", "t: any claim", "any claim", "with one look at 10"]
    heads += ["at the margin: by more than it", "an interval misses at any look", "mean seeds"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for shares_noise, noise in itertools.product((False, True), NOISE):
        for losses in LOSSES:
            one = functools.partial(
                judged, noise, losses, families=families, shares_noise=shares_noise
            )
            its = one()
            found = [
                false_claims(one(interval=statistics.t_interval)),
                false_claims(its),
                false_claims(one(looks=LOOKS[:1])),
                false_claims(one(truth=MARGIN), beyond=True),
                statistics.share(int(its.missed.sum()), families, confidence=0.98),
            ]
            cells = [f"{noise}{', and the reference' if shares_noise else ''}", str(losses)]
            cells += [f"{one.value:.3f} (< {one.high:.3f})" for one in found]
            lines.append(f"| {' | '.join([*cells, f'{its.seeds.mean():.0f}'])} |")
    return "\n".join(lines)


def table_of_prices(families: int) -> str:
    """What verdicts cost where noise is normal, against intervals of t, as Markdown."""
    heads = ["true difference", "losses", "settled, t", "settled", "zero excluded, t"]
    heads += ["zero excluded", "mean seeds, t", "mean seeds"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for losses, share in itertools.product((4, 20), (0.0, 0.5, 1.0, 2.0)):
        both = [
            judged("normal", losses, families=families, truth=share * MARGIN, interval=interval)
            for interval in (statistics.t_interval, statistics.mean_interval)
        ]
        is_told = [~np.isin(its.words, ("undecided", "equivalent")) for its in both]
        cells = [f"{share:g} margins", str(losses)]
        cells += [
            f"{1 - np.vectorize(statistics.is_open)(its.words, MARGIN).mean():.2f}" for its in both
        ]
        cells += [f"{told.mean():.2f}" for told in is_told]
        cells += [f"{its.seeds.mean():.0f}" for its in both]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def table_of_coverage(replicates: int) -> str:
    """Coverage by shape of the noise and kind of interval, as Markdown."""
    columns = [(interval, pairs) for interval in INTERVALS for pairs in PAIRS]
    heads = " | ".join(f"{interval}, n = {pairs}" for interval, pairs in columns)
    lines = [f"| shape | {heads} |", "|---" * (len(columns) + 1) + "|"]
    for shape in SHAPES:
        found = [coverage(shape, kind, pairs=n, replicates=replicates) for kind, n in columns]
        lines.append(f"| {shape} | {' | '.join(f'{one.value:.3f}' for one in found)} |")
    return "\n".join(lines)


def table(replicates: int) -> str:
    """All results as Markdown."""
    families = replicates // 2
    return "\n\n".join(
        [
            f"Coverage of 95 % intervals, {replicates:,} replicates each:",
            table_of_coverage(replicates),
            f"False claims (and upper 99 % limits), {families:,} families each, margin {MARGIN}:",
            table_of_families(families),
            f"What the interval costs where noise is normal, {families // 4:,} families each:",
            table_of_prices(families // 4),
        ]
    )


def main() -> None:
    """Print the tables and how long they took."""
    start = time.perf_counter()
    print(table(int(sys.argv[1]) if len(sys.argv) > 1 else REPLICATES))
    print(f"\n{time.perf_counter() - start:.0f} s on one core")


if __name__ == "__main__":
    main()
