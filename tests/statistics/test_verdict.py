"""Words of a verdict are monotone; seeds that decide, simulated; divergence, by hand."""

import itertools

import numpy as np
import pytest
from scipy import stats

from lossbench.statistics.choice import Choice, difference
from lossbench.statistics.intervals import Estimate, mean_interval, usual_length
from lossbench.statistics.verdict import chance_of_decision, divergence_p, seeds_needed, verdict

STRENGTH = {"undecided": 0, "better": 1, "worse": 1, "equivalent": 1, "below the margin": 2}
STRENGTH |= {"better by more": 2, "worse by more": 2}


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.3, 0.5, "better by more"),
        (0.1, 0.5, "better"),
        (0.05, 0.15, "below the margin"),
        (-0.1, 0.1, "equivalent"),
        (-0.1, 0.5, "undecided"),
        (-0.15, -0.05, "below the margin"),
        (-0.5, -0.1, "worse"),
        (-0.5, -0.3, "worse by more"),
    ],
)
def test_a_verdict_is_read_off_interval_and_margin(low, high, word):
    assert verdict(low, high, 0.2) == word


def test_without_a_margin_nothing_is_equivalent_or_better_by_more():
    assert [verdict(*ends, 0.0) for ends in ((0.1, 0.2), (-0.2, -0.1), (-0.1, 0.1))] == [
        "better",
        "worse",
        "undecided",
    ]


@pytest.mark.parametrize("margin", [0.0, 0.05, 0.2])
def test_no_word_gets_weaker_when_the_interval_narrows_around_its_mean(margin):
    for mean, start in itertools.product(np.linspace(-0.5, 0.5, 41), (0.01, 0.3, 0.9)):
        words = [verdict(mean - w, mean + w, margin) for w in start * np.linspace(1, 0.01, 60)]
        strengths = [STRENGTH[word] for word in words]
        assert strengths == sorted(strengths), (mean, words)


def test_no_word_gets_weaker_when_noise_shrinks_and_the_mean_stays():
    rng = np.random.default_rng(0)
    for _ in range(120):
        n, margin, luck = rng.choice([6, 10, 20, 40]), rng.uniform(0, 1), rng.uniform(0, 0.3)
        noise = rng.standard_normal(n) ** rng.choice([1, 2, 3])  # 2 is skewed, 3 has long tails
        mean, noise = rng.normal(0, 0.5), noise - noise.mean()
        again = np.repeat([0, 1], 200)
        strengths = []
        for size in (3, 2, 1.3, 1, 0.8, 0.5, 0.2, 0.05, 0):
            values = (mean + size * noise)[:, None]
            mine = Choice(np.hstack([values, values + luck]), 0, again)
            reference = Choice(np.zeros((n, 1)), 0, 0 * again)
            whole, _ = difference([mine], [reference], confidence=0.95)
            strengths.append(STRENGTH[verdict(whole.low, whole.high, margin)])
        assert strengths == sorted(strengths)


@pytest.mark.parametrize(
    ("mean", "margin"), [(0.6, 0.0), (0.3, 0.2), (0.0, 0.8), (0.5, 1.5), (0.2, 0.2)]
)
def test_the_seeds_needed_decide_in_four_cases_of_five(mean, margin):
    half = usual_length(10, 0.95) / np.sqrt(10)  # as seen with 10 pairs and a spread of 1
    seen = Estimate(mean, mean - half, mean + half, 10)
    seeds = int(seeds_needed(seen, margin, confidence=0.95))
    values = np.random.default_rng(0).normal(mean, 1.0, (20_000, seeds))
    ends = zip(*mean_interval(values, confidence=0.95), strict=True)
    decided = np.mean([verdict(low, high, margin) != "undecided" for low, high in ends])
    known = chance_of_decision(mean, 1.0, margin, pairs=seeds, confidence=0.95)
    assert decided == pytest.approx(known, abs=0.02)
    assert known >= 0.8
    fewer = chance_of_decision(mean, 1.0, margin, pairs=seeds - 1, confidence=0.95)
    assert seeds == 6 or fewer < 0.8


def test_a_difference_at_zero_without_a_margin_is_never_decided():
    assert seeds_needed(Estimate(0.0, -1.0, 1.0, 10), 0.0, confidence=0.95) == np.inf


def test_a_median_needs_as_many_seeds_as_its_interval():
    none_yet = Estimate(0.3, -np.inf, np.inf, 6)
    for confidence, seeds in ((0.95, 6), (0.99, 8), (0.998, 10)):
        assert seeds_needed(none_yet, 0.0, confidence=confidence, average="median") == seeds
        assert 0.5 ** (seeds - 1) <= 1 - confidence  # all differences on one side of zero


@pytest.mark.parametrize(("mine", "theirs"), [(5, 0), (0, 5), (9, 2), (1, 1), (0, 0)])
def test_divergence_is_judged_by_the_seeds_on_which_one_alone_diverged(mine, theirs):
    flags = np.zeros((2, 20), dtype=bool)
    flags[:, :3] = True  # both diverged: tells nothing
    flags[0, 3 : 3 + mine] = True
    flags[1, 15 - theirs : 15] = True
    heads = np.arange(mine + theirs + 1)
    chances = stats.binom.pmf(heads, mine + theirs, 0.5)
    known = chances[chances <= chances[mine] * (1 + 1e-9)].sum()
    assert divergence_p(*flags) == pytest.approx(known)
