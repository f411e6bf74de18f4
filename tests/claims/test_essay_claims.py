"""The essay's three claims and what qualifies them, shown by numbers of their own.

Here nothing is asked of `claims.py`: derivatives are closed forms or finite differences, minima
come from scipy. docs/losses.md names each of these tests beside the sentence that it shows.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, special

from lossbench.losses import LOSSES
from lossbench.losses.links import INVERSE_LINKS

PI = np.array([0.40, 0.35, 0.15, 0.10])


@pytest.fixture
def draw():
    return np.random.default_rng(0)


def value(name, output, target, **params):
    tensors = (torch.as_tensor(array, dtype=torch.float64) for array in (output, target))
    return LOSSES[name].values(*tensors, params).numpy()


def signal(name, output, target, **params):
    """Output gradient by autograd."""
    output = torch.tensor(output, dtype=torch.float64, requires_grad=True)
    target = torch.as_tensor(target, dtype=torch.float64)
    return torch.autograd.grad(LOSSES[name].values(output, target, params).sum(), output)[0].numpy()


def differences(function, at, *, step=1e-6):
    """Gradient of a function of one vector by central differences."""
    shifts = step * np.eye(len(at))
    return np.array([(function(at + h) - function(at - h)) / (2 * step) for h in shifts])


def jacobian(function, at, *, step=1e-6):
    shifts = step * np.eye(len(at))
    return np.stack([(function(at + h) - function(at - h)) / (2 * step) for h in shifts], -1)


def along_a_path(field, *corners):
    """Line integral of a vector field from corner to corner."""
    return sum(
        integrate.quad(lambda t, a=a, b=b: field(a + t * (b - a)) @ (b - a), 0, 1)[0]
        for a, b in itertools.pairwise(corners)
    )


def learnt(name, frequencies, **params):
    """What a softmax loss learns from labels: logits by scipy, from several starts."""
    labels = np.eye(len(frequencies))

    def risk(z):
        return frequencies @ value(name, np.tile(z, (len(labels), 1)), labels, **params)

    def slope(z):
        return frequencies @ signal(name, np.tile(z, (len(labels), 1)), labels, **params)

    starts = 0.5 * np.random.default_rng(1).normal(size=(4, len(labels)))
    found = [optimize.minimize(risk, z, jac=slope, options={"gtol": 1e-9}) for z in starts]
    return special.softmax(min(found, key=lambda one: one.fun).x)


def softmax_losses():
    return [name for name, loss in LOSSES.items() if loss.inverse_link == "softmax"]


# ---- first: the error signal of mse --------------------------------------------------------------


def test_the_error_signal_of_mse_is_the_error(draw):
    z, y = draw.normal(size=(2, 50, 3))
    np.testing.assert_allclose(signal("mse", z, y), z - y, rtol=0, atol=1e-15)


def test_a_term_of_the_target_leaves_the_error_signal_as_it_is(draw):
    y = draw.normal(size=3)

    def with_a_term(z):
        return float(value("mse", z, y)) + np.sin(5 * y).sum() + np.exp(y).sum()

    z = draw.normal(size=3)
    np.testing.assert_allclose(differences(with_a_term, z), z - y, atol=1e-8)


def test_whatever_has_the_error_as_its_signal_is_mse_plus_a_term_of_the_target(draw):
    y, start, detour, end = draw.normal(size=(4, 3))
    rise = along_a_path(lambda z: z - y, start, detour, end)
    assert rise == pytest.approx(float(value("mse", end, y) - value("mse", start, y)), abs=1e-9)


def test_another_quadratic_form_elicits_the_mean_and_has_another_signal(draw):
    form = np.array([[2.0, 0.6], [0.6, 1.0]])
    y = draw.exponential(size=(400, 2))

    def risk(z):
        return np.einsum("ni,ij,nj->n", z - y, form, z - y).mean() / 2

    found = optimize.minimize(risk, np.zeros(2), options={"gtol": 1e-9}).x
    np.testing.assert_allclose(found, y.mean(0), atol=1e-6)
    z = draw.normal(size=2)
    assert (
        np.abs(differences(lambda z: (z - y[0]) @ form @ (z - y[0]) / 2, z) - (z - y[0])).max()
        > 0.1
    )


def test_the_signals_of_quartic_and_mae_are_the_cube_and_the_sign_of_the_error(draw):
    z, y = draw.normal(size=(2, 50, 3))
    np.testing.assert_allclose(signal("quartic", z, y), (z - y) ** 3, rtol=1e-13)
    np.testing.assert_array_equal(signal("mae", z, y), np.sign(z - y))


@pytest.mark.parametrize(
    ("name", "act"),
    [
        ("mse", 1.0),
        ("mae", math.log(2)),
        ("quartic", optimize.brentq(lambda c: c**3 - 3 * c**2 + 6 * c - 6, 1, 2)),
        ("pinball", math.log(5)),
        ("expectile", optimize.brentq(lambda c: 3 * math.exp(-c) - c + 1, 1, 3)),
        ("linex", math.log(2)),
        ("poisson_nll", 1.0),
    ],
)
def test_a_skewed_target_teaches_each_loss_its_own_number(name, act):
    to_output = math.log if name == "poisson_nll" else float

    def expected_signal(c):
        def weighted(y):
            return signal(name, [[to_output(c)]], [[y]])[0, 0] * math.exp(-y)

        return sum(integrate.quad(weighted, *ends, limit=25)[0] for ends in ((0, c), (c, 30)))

    assert optimize.brentq(expected_signal, 0.3, 3.0, xtol=1e-5) == pytest.approx(act, abs=1e-3)


def test_mae_has_a_kink_where_it_is_least_and_mse_has_none():
    for name, jump in (("mae", 2.0), ("mse", 0.0)):
        left, right = (signal(name, [[z]], [[0.0]])[0, 0] for z in (-1e-9, 1e-9))
        assert right - left == pytest.approx(jump, abs=1e-8)


def test_of_the_losses_of_the_error_alone_only_mse_elicits_the_mean(draw):
    y = np.quantile(draw.exponential(size=10_000), (np.arange(99) + 0.5) / 99)
    means = set()
    for name, loss in LOSSES.items():
        if loss.task == "regression" and loss.inverse_link == "identity":
            at_mean = np.full((len(y), 1), y.mean())
            if abs(signal(name, at_mean, y[:, None]).mean()) < 1e-9:
                means.add(name)
    assert means == {"mse"}


def test_another_loss_elicits_the_mean_but_is_no_function_of_the_error_alone():
    # Bregman divergences do so; poisson_nll is one, up to a term of the target.
    y = np.array([0.5, 1.0, 4.0])
    found = optimize.minimize_scalar(
        lambda z: value("poisson_nll", np.full((3, 1), z), y[:, None]).mean(), tol=1e-12
    )
    assert math.exp(found.x) == pytest.approx(y.mean(), abs=1e-6)

    def regret(y, prediction):
        at = [[math.log(prediction)], [math.log(y)]]
        loss = value("poisson_nll", at, [[y], [y]])
        return loss[0] - loss[1]

    assert regret(1.0, 2.0) != pytest.approx(regret(4.0, 5.0), rel=0.5)


# ---- second: minimised where prediction == target, and linear in the target ----------------------


def test_cross_entropy_of_a_dense_target_is_least_at_the_target(draw):
    for target in draw.dirichlet(np.ones(4), size=5):
        found = optimize.minimize(
            lambda z, y=target: float(value("cross_entropy", z, y)),
            np.zeros(4),
            jac=lambda z, y=target: signal("cross_entropy", z, y),
            options={"gtol": 1e-10},
        )
        np.testing.assert_allclose(special.softmax(found.x), target, atol=1e-6)


def test_the_least_output_of_cross_entropy_is_never_the_only_one(draw):
    z, y = draw.normal(size=4), draw.dirichlet(np.ones(4))
    shifted = value("cross_entropy", z + 3.7, y)
    np.testing.assert_allclose(shifted, value("cross_entropy", z, y), rtol=1e-14)
    assert signal("cross_entropy", z, y).sum() == pytest.approx(0, abs=1e-15)


def test_on_a_hard_label_cross_entropy_falls_for_ever_and_reaches_nothing():
    label = np.eye(4)[0]
    falling = [float(value("cross_entropy", s * label, label)) for s in (0, 5, 10, 20, 30)]
    assert all(later < earlier for earlier, later in itertools.pairwise(falling))
    assert 0 < falling[-1] < 1e-12


def test_cross_entropy_and_brier_are_linear_in_the_target_up_to_a_term_of_the_target(draw):
    z, y = draw.normal(size=4), draw.dirichlet(np.ones(4))
    labels, copies = np.eye(4), np.tile(z, (4, 1))
    expected = y @ value("cross_entropy", copies, labels)
    assert expected == pytest.approx(float(value("cross_entropy", z, y)), abs=1e-14)
    # |p - y|² = Σ y_i |p - e_i|² + |y|² - 1.
    expected = y @ value("brier", copies, labels) + y @ y - 1
    assert expected == pytest.approx(float(value("brier", z, y)), abs=1e-14)


@pytest.mark.parametrize("name", ["mae_probs", "quartic_probs", "js", "hellinger", "chi2"])
def test_some_losses_are_least_at_a_dense_target_and_learn_something_else_from_labels(name, draw):
    def at(z):
        return float(value(name, z, PI))

    found = optimize.minimize(
        at,
        np.log(PI) + 0.3 * draw.normal(size=4),
        method="Nelder-Mead",
        options={"xatol": 1e-10, "fatol": 1e-14, "maxiter": 20_000, "maxfev": 20_000},
    )
    np.testing.assert_allclose(special.softmax(found.x), PI, atol=2e-4)
    assert np.abs(learnt(name, PI) - PI).max() > 0.02


def powered(power):
    return PI**power / (PI**power).sum()


@pytest.mark.parametrize(
    ("name", "params", "closed_form"),
    [
        ("cross_entropy", {}, PI),
        ("brier", {}, PI),
        ("spherical", {}, PI),
        ("tsallis", {"q": 1.5}, PI),
        ("tsallis", {"q": 3.0}, PI),
        ("gce", {"q": 0.7}, powered(1 / 0.3)),
        ("gce", {"q": 0.3}, powered(1 / 0.7)),
        ("hellinger", {}, powered(2)),
        ("chi2", {}, powered(0.5)),
        ("unhinged", {}, np.eye(4)[0]),
        ("mae_probs", {}, np.eye(4)[0]),
        ("label_smoothing", {"epsilon": 0.1}, 0.9 * PI + 0.1 / 4),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_labels_teach_each_loss_its_closed_form(name, params, closed_form):
    np.testing.assert_allclose(learnt(name, PI, **params), closed_form, atol=1e-4)


def test_linear_in_the_target_is_not_yet_proper(draw):
    z, y = draw.normal(size=4), draw.dirichlet(np.ones(4))
    for name in ("focal", "gce"):
        expected = y @ value(name, np.tile(z, (4, 1)), np.eye(4))
        assert expected == pytest.approx(float(value(name, z, y)), abs=1e-14)
        assert np.abs(learnt(name, PI) - PI).max() > 0.02


LOCAL = [name for name, loss in LOSSES.items() if loss.weight]


@pytest.mark.parametrize("name", LOCAL)
def test_a_local_loss_weighs_the_error_of_a_label_by_a_function_of_its_probability(name, draw):
    label = np.eye(5)[1]
    for p in (0.03, 0.4, 0.9):
        weights = []
        for others in draw.dirichlet(np.ones(4), size=3):
            z = np.log(np.insert((1 - p) * others, 1, p))
            error = special.softmax(z) - label
            gradient = signal(name, z, label)
            weights.append(gradient @ error / (error @ error))
            np.testing.assert_allclose(gradient, weights[-1] * error, atol=1e-10)
        assert np.ptp(weights) < 1e-10


@pytest.mark.exhaustive
def test_of_the_local_losses_only_multiples_of_cross_entropy_learn_every_distribution():
    # Among these frequencies is one below 1/tau of phuber_ce, which is proper above it alone.
    frequencies = [PI, np.array([0.9, 0.07, 0.03]), np.array([0.5, 0.3, 0.2])]
    proper = {
        name
        for name in LOCAL
        if all(np.abs(learnt(name, pi) - pi).max() < 1e-4 for pi in frequencies)
    }
    constant = {
        name
        for name in LOCAL
        if np.ptp([weight_at(name, p) for p in (0.01, 0.1, 0.5, 0.9)]) < 1e-10
    }
    assert proper == constant == {"cross_entropy", "forward_kl", "bhattacharyya"}


def weight_at(name, p):
    z, label = np.array([special.logit(p), 0.0]), np.array([1.0, 0.0])
    return signal(name, z, label)[0] / (p - 1)


def test_with_two_classes_every_score_is_local_and_with_three_brier_is_not():
    # Two outputs with the same probability for the label: for two classes there is no other.
    z = np.log([0.3, 0.7])
    np.testing.assert_allclose(value("brier", z + 1.3, [1.0, 0.0]), value("brier", z, [1.0, 0.0]))
    even, uneven = np.log([0.3, 0.35, 0.35]), np.log([0.3, 0.6, 0.1])
    label = np.eye(3)[0]
    assert value("cross_entropy", even, label) == pytest.approx(
        value("cross_entropy", uneven, label)
    )
    assert value("brier", even, label) < value("brier", uneven, label) - 0.1


def test_with_two_classes_brier_is_proper_and_local_and_not_cross_entropy():
    weights = [weight_at("brier", p) for p in (0.1, 0.3, 0.5)]
    np.testing.assert_allclose(weights, [4 * p * (1 - p) for p in (0.1, 0.3, 0.5)], rtol=1e-12)
    np.testing.assert_allclose(learnt("brier", np.array([0.8, 0.2])), [0.8, 0.2], atol=1e-4)


# ---- third: through softmax, the gradient is the error again -------------------------------------


def test_the_softmax_jacobian_turns_the_slope_of_cross_entropy_into_the_error(draw):
    z, y = draw.normal(size=5), draw.dirichlet(np.ones(5))
    p = special.softmax(z)
    np.testing.assert_allclose(jacobian(special.softmax, z), np.diag(p) - np.outer(p, p), atol=1e-9)
    np.testing.assert_allclose((np.diag(p) - np.outer(p, p)) @ (-y / p), p - y, atol=1e-14)
    np.testing.assert_allclose(signal("cross_entropy", z, y), p - y, atol=1e-15)


def test_behind_a_softmax_only_cross_entropy_has_the_error_as_its_signal(draw):
    start, detour, end = draw.normal(size=(3, 4))
    y = draw.dirichlet(np.ones(4))
    rise = along_a_path(lambda z: special.softmax(z) - y, start, detour, end)
    cross_entropy = value("cross_entropy", np.stack([start, end]), np.stack([y, y]))
    assert rise == pytest.approx(cross_entropy[1] - cross_entropy[0], abs=1e-9)
    z = 2 * draw.normal(size=(20, 4))
    labels = np.eye(4)[draw.integers(4, size=20)]
    exact = {
        name
        for name in softmax_losses()
        if np.abs(signal(name, z, labels) - (special.softmax(z, -1) - labels)).max() < 1e-12
    }
    # The second is the first less the target's entropy, which no output moves.
    assert exact == {"cross_entropy", "forward_kl"}


def test_every_convex_potential_has_a_loss_whose_signal_is_the_error(draw):
    form, mix = draw.normal(size=(2, 4, 4))

    def potential(z):
        return special.logsumexp(mix @ z) + 0.5 * z @ form @ form.T @ z

    def link(z):
        return mix.T @ special.softmax(mix @ z) + form @ form.T @ z

    z, y = draw.normal(size=(2, 4))
    matching = differences(lambda z: potential(z) - y @ z, z)
    np.testing.assert_allclose(matching, link(z) - y, atol=1e-6)


MATCHED = ("cross_entropy", "mse", "mse_logits", "bce_ova", "sparsemax", "entmax15", "entmax")


@pytest.mark.parametrize("name", [*MATCHED, "poisson_nll"])
def test_the_catalog_has_many_losses_whose_signal_is_the_error(name, draw):
    z, y = draw.normal(size=(20, 4)), draw.dirichlet(np.ones(4), size=20)
    prediction = LOSSES[name].predict(torch.tensor(z)).numpy()
    np.testing.assert_allclose(signal(name, z, y), prediction - y, atol=1e-9)


@pytest.mark.parametrize("score", ["brier", "spherical", "tsallis"])
def test_with_two_classes_every_proper_score_has_a_link_behind_which_its_signal_is_the_error(score):
    # The link is the difference of the two partial losses, as in Buja, Stuetzle and Shen 2005.
    def partial(p, label):
        return float(value(score, np.log([p, 1 - p]), np.eye(2)[label]))

    def output(p):
        return partial(p, 1) - partial(p, 0)

    for p in (0.2, 0.5, 0.9):
        step = 1e-5
        for label, y in ((0, 1.0), (1, 0.0)):
            rise = partial(p + step, label) - partial(p - step, label)
            assert rise / (output(p + step) - output(p - step)) == pytest.approx(p - y, abs=1e-5)


def test_where_the_links_jacobian_is_asymmetric_no_loss_has_the_error_as_its_signal(draw):
    z = draw.normal(size=4)
    params = {
        "normalized_softmax": {"tau": 0.5},
        "tempered_softmax": {"t2": 1.4},
        "entmax": {"alpha": 1.25},
    }

    def asymmetry(link):
        def predict(z):
            return INVERSE_LINKS[link](torch.tensor(z), **params.get(link, {})).numpy()

        slopes = jacobian(predict, z)
        return np.abs(slopes - slopes.T).max()

    for link in ("softmax", "sparsemax", "entmax15", "entmax", "tempered_softmax", "sigmoid"):
        assert asymmetry(link) < 1e-7
    assert asymmetry("normalized_softmax") > 1e-2
    # Not a gradient field: round a closed path the signal does not add up to nothing.

    def error(z):
        return INVERSE_LINKS["normalized_softmax"](torch.tensor(z), tau=0.5).numpy() - 0.25

    # No gradient field: round a closed path the signal does not add up to nothing.
    right, up = np.eye(4)[0], np.eye(4)[1]
    assert abs(along_a_path(error, z, z + right, z + right + up, z)) > 1e-3


def test_behind_a_tempered_softmax_the_matching_loss_is_not_cross_entropy(draw):
    z = torch.tensor(draw.normal(size=4), requires_grad=True)
    p = INVERSE_LINKS["tempered_softmax"](z, t2=1.4)
    (slope,) = torch.autograd.grad(-(torch.tensor(PI) * p.log()).sum(), z)
    assert np.abs(slope.numpy() - (p.detach().numpy() - PI)).max() > 0.01


def test_squared_error_of_raw_outputs_has_the_same_signal_and_is_proper_without_a_softmax(draw):
    z, y = draw.normal(size=(2, 20, 4))
    np.testing.assert_allclose(signal("mse_logits", z, y), z - y, atol=1e-15)
    labels = np.eye(4)

    def risk(z):
        return PI @ value("mse_logits", np.tile(z, (4, 1)), labels)

    np.testing.assert_allclose(optimize.minimize(risk, np.zeros(4)).x, PI, atol=1e-6)


def test_what_tells_cross_entropy_from_squared_error_of_raw_outputs_is_a_bounded_signal():
    label, wrong = np.eye(4)[0], np.eye(4)[1]
    for size in (10.0, 100.0, 1000.0):
        assert np.linalg.norm(signal("cross_entropy", size * wrong, label)) < math.sqrt(2) + 1e-12
        assert np.linalg.norm(signal("mse_logits", size * wrong, label)) > size
