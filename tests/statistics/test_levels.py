"""Looking several times: the recursion against simulation and known tables."""

import numpy as np
import pytest
from scipy import stats

from lossbench.statistics.levels import adjust_for_looks, level_at, look_of, nominal_levels


def test_a_single_look_spends_everything():
    assert nominal_levels((10,), 0.05) == pytest.approx((0.05,))


def test_the_first_look_spends_its_share():
    assert nominal_levels((10, 20, 40), 0.05)[0] == pytest.approx(0.0125)


def test_two_equal_looks_have_the_boundaries_that_are_published_for_linear_spending():
    # Lan and DeMets 1983, alpha t at t = .5, 1, two-sided .05: z = 2.241 and 2.125
    levels = np.array(nominal_levels((1, 2), 0.05))
    assert stats.norm.isf(levels / 2) == pytest.approx([2.2414, 2.1251], abs=2e-3)


@pytest.mark.parametrize("looks", [(10, 20, 40), (6, 50), (5, 10, 15, 20, 25)])
def test_all_looks_together_miss_zero_as_often_as_promised(looks):
    values = np.random.default_rng(0).standard_normal((40_000, looks[-1]))
    missed = np.zeros(len(values), dtype=bool)
    for look, level in zip(looks, nominal_levels(looks, 0.05), strict=True):
        z = values[:, :look].sum(1) / np.sqrt(look)
        missed |= abs(z) > stats.norm.isf(level / 2)
    assert stats.binomtest(int(missed.sum()), len(values), 0.05).pvalue > 1e-3


def test_a_level_is_shared_out_among_comparisons():
    one = level_at(1, (10, 20), confidence=0.95, comparisons=4)
    assert one == pytest.approx(1 - nominal_levels((10, 20), 0.0125)[1])
    assert level_at(0, (), confidence=0.95, comparisons=1) == pytest.approx(0.95)


@pytest.mark.parametrize(("seeds", "look"), [(3, 0), (10, 0), (19, 0), (20, 1), (40, 2), (99, 2)])
def test_a_look_is_the_last_one_that_the_seeds_reach(seeds, look):
    assert look_of(seeds, (10, 20, 40)) == look
    assert look_of(seeds, ()) == 0


@pytest.mark.parametrize("error", [1e-6, 0.01, 0.05, 0.4])
@pytest.mark.parametrize("look", [0, 1, 2])
def test_a_p_value_that_holds_over_looks_is_the_error_of_the_interval_that_just_excludes(
    look, error
):
    looks = (10, 20, 40)
    bound = nominal_levels(looks, error)[look]
    assert adjust_for_looks(bound, look, looks) == pytest.approx(error, rel=3e-3)
    assert (
        adjust_for_looks(0.9 * bound, look, looks)
        < error
        < adjust_for_looks(1.1 * bound, look, looks)
    )


def test_who_looks_once_pays_nothing_and_who_may_look_again_pays():
    assert adjust_for_looks(0.03, 0, (10,)) == adjust_for_looks(0.03, 0, ()) == 0.03
    assert adjust_for_looks(0.03, 0, (10, 40)) == pytest.approx(
        0.12, rel=1e-2
    )  # a quarter was spent
    assert adjust_for_looks(0.0, 1, (10, 40)) == 0.0
    assert adjust_for_looks(0.9, 0, (10, 40)) == 1.0
