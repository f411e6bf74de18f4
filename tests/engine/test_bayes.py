"""What a loss aims at, against closed forms, and as the engine uses it."""

from __future__ import annotations

import pytest
import torch
from configs import make_run
from selection import beyond, one_in
from training import assert_same_records, records_of, trained

from lossbench.claims import bayes_prediction
from lossbench.engine import bayes
from lossbench.engine.bayes import MOST_POSTERIORS, BayesPoints
from lossbench.losses import LOSSES
from lossbench.losses.spec import Context


def posteriors(count: int = 30, *, seed: int = 0, classes: int = 4) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return (1.5 * torch.randn(count, classes, generator=draw, dtype=torch.float64)).softmax(-1)


def aim(loss, pi, *, targets="sampled", counts=None, points=None, **params):
    run = make_run(data="gaussian_mixture", loss=loss, loss__params=params, data__targets=targets)
    counts = torch.ones(pi.shape[-1]) if counts is None else counts
    return (points or BayesPoints()).of(run, [pi], [counts])[0]


def powered(pi: torch.Tensor, power: float) -> torch.Tensor:
    return pi**power / (pi**power).sum(-1, keepdim=True)


def vertex(pi: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(pi.argmax(-1), pi.shape[-1]).double()


CLOSED = {
    "cross_entropy": (lambda pi: pi, {}),
    "brier": (lambda pi: pi, {}),
    "mse_logits": (lambda pi: pi, {}),
    "mse_sigmoid": (lambda pi: pi, {}),
    "gce": (lambda pi: powered(pi, 1 / (1 - 0.7)), {}),
    "gce at q=0.5": (lambda pi: powered(pi, 2.0), {"q": 0.5}),
    "hellinger": (lambda pi: powered(pi, 2.0), {}),
    "chi2": (lambda pi: powered(pi, 0.5), {}),
    "label_smoothing": (lambda pi: 0.9 * pi + 0.1 / 4, {}),
    "label_smoothing at epsilon=0.4": (lambda pi: 0.6 * pi + 0.4 / 4, {"epsilon": 0.4}),
    "mae_probs": (vertex, {}),
    "bi_tempered": (lambda pi: pi, {}),
}
"""What labels drawn from pi teach each loss, and with which parameters."""


@pytest.mark.parametrize("name", CLOSED)
def test_the_bayes_point_of_sampled_labels_is_the_closed_form(name):
    expected, params = CLOSED[name]
    pi = posteriors()
    tolerance = 1e-4 if name == "bi_tempered" else 1e-6
    loss = name.partition(" ")[0]
    torch.testing.assert_close(aim(loss, pi, **params), expected(pi), rtol=0, atol=tolerance)
    torch.testing.assert_close(searched(loss, pi, **params), expected(pi), rtol=0, atol=tolerance)


def searched(loss, pi, *, targets="sampled", **params):
    """What the search comes to, whatever a loss claims."""
    points, weights = torch.eye(pi.shape[-1], dtype=torch.float64).expand(len(pi), -1, -1), pi
    if targets == "distribution":
        points, weights = pi[:, None], torch.ones_like(pi[:, :1])
    return bayes_prediction(LOSSES[loss].at(**params), targets=points, weights=weights)


SOLVED = [
    *[("cross_entropy", "sampled", {}, False), ("quartic_probs", "distribution", {}, False)],
    *[("z_loss", "sampled", {"c": 1e-4}, False), ("z_loss", "sampled", {"c": 1e-3}, True)],
    *[("quartic_probs", "sampled", {}, True), ("logit_adjusted", "sampled", {}, True)],
    ("cosine_softmax", "sampled", {}, True),  # whose link reaches no corner
]


@pytest.mark.parametrize(("loss", "targets", "params", "expected"), SOLVED)
def test_what_claims_the_posterior_as_it_is_used_is_not_solved_and_all_else_is(
    monkeypatch, loss, targets, params, expected
):
    solved = []

    def noted(row, **given):
        solved.append(row)
        return bayes_prediction(row, **given)

    monkeypatch.setattr(bayes, "bayes_prediction", noted)
    aim(loss, posteriors(), targets=targets, **params)
    assert bool(solved) == expected


@pytest.mark.parametrize("name", ["cross_entropy", "quartic_probs", "hellinger", "mae_probs", "js"])
def test_the_bayes_point_of_the_distribution_is_the_distribution_itself(name):
    pi = posteriors()
    torch.testing.assert_close(aim(name, pi, targets="distribution"), pi, rtol=0, atol=1e-5)
    found = searched(name, pi, targets="distribution")
    torch.testing.assert_close(found, pi, rtol=0, atol=1e-5)
    if name != "cross_entropy":
        assert (aim(name, pi) - pi).abs().amax() > 0.05


def test_the_bayes_point_of_quartic_probs_is_that_of_the_theory_page():
    found = aim("quartic_probs", torch.tensor([[0.4, 0.35, 0.15, 0.1]], dtype=torch.float64))
    assert found[0].tolist() == pytest.approx([0.366, 0.344, 0.193, 0.098], abs=1e-3)


def test_a_loss_that_asks_for_class_counts_aims_with_those_of_its_own_run():
    pi, counts = posteriors(), torch.tensor([10.0, 20.0, 30.0, 40.0])
    # It learns what is likeliest where all classes are equally frequent.
    expected = pi / counts
    found = aim("logit_adjusted", pi, counts=counts)
    torch.testing.assert_close(found, expected / expected.sum(-1, keepdim=True), rtol=0, atol=1e-6)
    even = aim("logit_adjusted", pi)
    torch.testing.assert_close(even, pi, rtol=0, atol=1e-6)


def test_a_row_told_its_context_asks_for_none_and_uses_it():
    row, draw = LOSSES["logit_adjusted"], torch.Generator().manual_seed(0)
    output, target = torch.randn(2, 5, 4, generator=draw).unbind(0)
    context = Context.outside_training(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    told = row.inside(context)
    assert not told.needs_context
    assert told.defaults == row.defaults
    expected = row.values(output, target, context=context)
    assert torch.equal(told.values(output, target), expected)
    assert not torch.equal(row.values(output, target), expected)


@pytest.mark.parametrize(
    "name", one_in(8, [name for name, row in LOSSES.items() if row.task == "classification"])
)
def test_a_bayes_point_has_the_same_bits_whatever_is_solved_with_it(name):
    run = make_run(data="gaussian_mixture", loss=name)
    parts = [posteriors(count, seed=count) for count in (7, 1, 20)]
    counts = [torch.tensor([5.0, 1.0, 2.0, 9.0]) * n for n in (1, 2, 3)]
    together = BayesPoints().of(run, parts, counts)
    for part, count, expected in zip(parts, counts, together, strict=True):
        assert torch.equal(BayesPoints().of(run, [part], [count])[0], expected)


def test_equal_posteriors_are_solved_once_and_known_ones_not_again(monkeypatch):
    solved = []
    original = bayes.bayes_prediction

    def counting(loss, *, targets, weights):
        solved.append(len(weights) - bayes.GUARDS)
        return original(loss, targets=targets, weights=weights)

    # What was remembered shows in no value.
    monkeypatch.setattr(bayes, "bayes_prediction", counting)
    points, pi = BayesPoints(), posteriors(6)
    repeated = pi.repeat(50, 1)
    first = aim("gce", repeated, points=points)
    assert solved == [6]
    torch.testing.assert_close(first, powered(repeated, 1 / 0.3), rtol=0, atol=1e-6)
    assert torch.equal(aim("gce", repeated, points=points), first)
    assert solved == [6]
    aim("gce", repeated, q=0.6, points=points)
    aim("gce", repeated, targets="distribution", points=points)
    assert solved == [6, 6, 6]


def test_examples_beyond_the_first_distinct_posteriors_are_left_out():
    pi = posteriors(MOST_POSTERIORS + 5)
    found = aim("cross_entropy", torch.cat([pi, pi]))
    is_known = found.isfinite().all(-1)
    assert is_known.tolist() == 2 * (MOST_POSTERIORS * [True] + 5 * [False])
    torch.testing.assert_close(found[is_known], torch.cat([pi, pi])[is_known], rtol=0, atol=1e-6)


# ---- as the engine uses it -----------------------------------------------------------------------

ATOMS = {
    "data": "finite_support",
    "data__params": {"examples": 640},
    "model": {"name": "linear", "fn": "linear", "params": {}},
    "batch_size": 64,
}


def last(run):
    evals = trained([run])["evals"]
    chosen = evals[(evals.step == run.steps) & (evals.split == "test")]
    return chosen.set_index("metric").value


@pytest.mark.parametrize(
    ("loss", "lr", "is_drawn_to_pi"),
    beyond(
        [("hellinger", 5.0, False)],
        [("cross_entropy", 1.0, True), ("mse_logits", 1.0, True)],
    ),
)
@pytest.mark.exhaustive
def test_labels_draw_a_tabular_model_to_the_bayes_point_of_its_loss(loss, lr, is_drawn_to_pi):
    steps = 2000
    params = {"examples": 64 * steps, "atoms": 4, "classes": 3}
    times = {"steps": steps, "log_every": steps, "eval_every": steps, "schedule": "cosine"}
    facts = ATOMS | {"data__params": params, "optimizer__lr": lr, "optimizer__momentum": 0.0}
    found = last(make_run(**facts, **times, loss=loss, seed=1))
    assert found["tv_bayes"] < 0.02
    assert (found["tv_posterior"] < 0.02) == is_drawn_to_pi


@pytest.mark.exhaustive
def test_the_distribution_draws_a_loss_that_is_not_linear_to_the_distribution():
    shared = ATOMS | {"steps": 2000, "log_every": 2000, "eval_every": 2000, "seed": 1}
    run = make_run(**shared, loss="hellinger", optimizer__lr=5.0, data__targets="distribution")
    found = last(run)
    assert found["tv_bayes"] < 1e-3
    assert found["tv_posterior"] < 1e-3


def test_distances_to_a_distribution_are_kept_where_the_prediction_is_one():
    found = {
        loss: set(last(make_run(**ATOMS, loss=loss, steps=2)).index)
        for loss in ("cross_entropy", "mse_logits", "bce_ova", "weston_watkins", "mse_sigmoid")
    }
    both = {"tv_posterior", "tv_bayes"}
    for loss in ("cross_entropy", "mse_logits", "bce_ova", "mse_sigmoid"):
        assert both <= found[loss]
    assert not both & found["weston_watkins"]


def test_the_distance_to_the_bayes_point_is_measured_on_test_alone():
    evals = trained([make_run(**ATOMS, loss="gce", steps=2)])["evals"]
    assert set(evals[evals.metric == "tv_bayes"].split) == {"test"}
    posterior = set(evals[evals.metric == "tv_posterior"].split)
    assert posterior == {"validation", "test"}
    assert "tv_bayes" not in last(make_run(data="digits", loss="gce", steps=2))


def test_distances_have_the_same_bits_in_any_pack():
    runs = [
        make_run(**ATOMS, loss=loss, seed=seed, steps=3, eval_every=1)
        for loss in ("gce", "cross_entropy", "mse_logits")
        for seed in (0, 1, 2)
    ]
    together = trained(runs)
    for run in runs[::3]:
        assert_same_records(records_of(trained([run]), run), records_of(together, run))
