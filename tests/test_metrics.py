"""Metrics against scikit-learn, closed forms and brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import optimize
from sklearn import metrics as sk

from lossbench import metrics, records
from lossbench.losses.links import sparsemax


@pytest.fixture
def classified():
    draw = torch.Generator().manual_seed(0)
    output = 2.0 * torch.randn(3, 200, 4, generator=draw, dtype=torch.float64)
    label = torch.randint(4, (3, 200), generator=draw)
    target = torch.nn.functional.one_hot(label, 4).double()
    return output, label, target


def test_regression_metrics_equal_scikit_learns():
    draw = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(2, 3, 50, 1, generator=draw, dtype=torch.float64)
    found = metrics.regression(prediction, target)
    for member in range(3):
        p, t = prediction[member, :, 0].numpy(), target[member, :, 0].numpy()
        expected = {
            "rmse": sk.root_mean_squared_error(t, p),
            "mae": sk.mean_absolute_error(t, p),
            "r2": sk.r2_score(t, p),
        }
        for name, value in expected.items():
            assert found[name][member].item() == pytest.approx(value, rel=1e-12)
        assert found["median_ae"][member].item() in np.abs(p - t)


def test_wrong_labels_are_counted_as_memorised_as_recovered_or_as_neither():
    eye = torch.eye(4, dtype=torch.float64)
    clean, given = eye[[0, 0, 0, 0, 1, 2]], eye[[1, 1, 1, 1, 1, 2]]  # four wrong, two right
    chosen = torch.stack([eye[[1, 0, 0, 3, 1, 0]], eye[[1, 1, 1, 1, 0, 0]]])
    found = metrics.of_wrong_labels(chosen, given.expand(2, -1, -1), clean.expand(2, -1, -1))
    assert found["memorised"].tolist() == [0.25, 1.0]
    assert found["recovered"].tolist() == [0.5, 0.0]
    unharmed = metrics.of_wrong_labels(chosen, clean, clean)
    assert all(value.isnan().all() for value in unharmed.values())


def test_clean_validation_is_accuracy_and_rmse_against_the_targets_before(classified):
    output, label, target = classified
    found = metrics.clean_validation(output, target, task="classification")["accuracy_clean"]
    assert found[1].item() == pytest.approx(sk.accuracy_score(label[1], output[1].argmax(-1)))
    rmse = metrics.clean_validation(output, target, task="regression")["rmse_clean"]
    assert rmse[2].item() == pytest.approx(sk.root_mean_squared_error(*map(flat, (output, target))))


def flat(values):
    return values[2].flatten()


def test_classification_metrics_equal_scikit_learns(classified):
    output, label, target = classified
    p = output.softmax(-1)
    found = metrics.classification(
        p, target, recalibrated=p.log(), is_probability=torch.tensor([True, True, True])
    )
    for member in range(3):
        y, q = label[member].numpy(), p[member].numpy()
        expected = {
            "accuracy": sk.accuracy_score(y, q.argmax(-1)),
            "nll": sk.log_loss(y, q),
            "nll_raw": sk.log_loss(y, q),
            "brier": sk.brier_score_loss(y, q, scale_by_half=False, labels=range(4)),
            "zero_share": 0.0,
        }
        for name, value in expected.items():
            assert found[name][member].item() == pytest.approx(value, rel=1e-9, abs=1e-12)


def test_ece_is_the_weighted_gap_between_confidence_and_accuracy(classified):
    output, label, _ = classified
    p = output.softmax(-1)
    for member in range(3):
        confidence, chosen = p[member].max(-1)
        expected = 0.0
        for low in np.arange(15) / 15:
            inside = (confidence > low) & (confidence <= low + 1 / 15)
            if inside.any():
                hit = (chosen == label[member])[inside].double().mean()
                expected += inside.double().mean() * abs(hit - confidence[inside].mean())
        assert metrics.ece(p, label)[member].item() == pytest.approx(float(expected), rel=1e-9)


def test_projection_gives_the_nearest_point_of_the_simplex():
    draw = torch.Generator().manual_seed(1)
    for point in (2 * torch.randn(5, 3, generator=draw, dtype=torch.float64)).numpy():
        found = sparsemax(torch.as_tensor(point)).numpy()
        best = optimize.minimize(
            lambda q, p=point: ((q - p) ** 2).sum(),
            np.full(3, 1 / 3),
            bounds=[(0, 1)] * 3,
            constraints={"type": "eq", "fun": lambda q: q.sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-14},
        )
        np.testing.assert_allclose(found, best.x, atol=1e-6)


def test_recalibration_finds_the_likeliest_scale_and_biases(classified):
    output, _, target = classified
    found = metrics.recalibrate(output, target)
    for member in range(3):
        z, y = output[member], target[member]

        def loss(parameters, z=z, y=y):
            parameters = torch.as_tensor(parameters)
            log_p = (parameters[0] * z + parameters[1:]).log_softmax(-1)
            return -(y * log_p).sum(-1).mean().item()

        best = optimize.minimize(loss, np.r_[1.0, np.zeros(4)], method="BFGS")
        assert loss(found[member]) == pytest.approx(best.fun, abs=2e-3)
        # The ridge is there to bound it, not to bend it.
        assert loss(found[member]) < loss(np.r_[1.0, np.zeros(4)])


def test_recalibration_undoes_a_wrong_temperature():
    draw = torch.Generator().manual_seed(2)
    logits = torch.randn(1, 20_000, 3, generator=draw, dtype=torch.float64)
    label = torch.multinomial(logits[0].softmax(-1), 1, generator=draw)[:, 0]
    target = torch.nn.functional.one_hot(label, 3).double()[None]
    scale = metrics.recalibrate(10.0 * logits, target)
    assert scale[0, 0].item() == pytest.approx(0.1, rel=0.05)


def test_recalibration_stays_finite_where_classes_are_separated_or_outputs_constant():
    target = torch.nn.functional.one_hot(torch.arange(30) % 3, 3).double()
    output = torch.stack([100.0 * target, torch.zeros(30, 3).double()])
    scale = metrics.recalibrate(output, target.expand(2, 30, 3))
    assert scale.isfinite().all()
    assert metrics.recalibrated(output, scale)[0].exp().isfinite().all()


def test_kl_is_zero_at_the_posterior_and_the_textbook_sum_elsewhere():
    pi = torch.tensor([[[0.5, 0.5, 0.0]]], dtype=torch.float64)
    q = torch.tensor([[[0.25, 0.5, 0.25]]], dtype=torch.float64)
    assert metrics.kl(pi, pi.clamp_min(1e-300).log()).item() == pytest.approx(0.0, abs=1e-12)
    assert metrics.kl(pi, q.log()).item() == pytest.approx(0.5 * np.log(2), rel=1e-12)


def test_total_variation_is_the_largest_difference_that_any_event_can_have():
    draw = torch.Generator().manual_seed(5)
    p, q = torch.rand(2, 3, 7, 4, generator=draw, dtype=torch.float64).softmax(-1)
    events = [list(event) for n in range(5) for event in itertools.combinations(range(4), n)]
    gaps = torch.stack([(p[..., event].sum(-1) - q[..., event].sum(-1)).abs() for event in events])
    torch.testing.assert_close(metrics.total_variation(p, q), gaps.amax(0).mean(-1))
    certain = torch.eye(2, dtype=torch.float64)[None]
    assert metrics.total_variation(certain, certain.flip(-1)).item() == 1.0


def test_total_variation_leaves_out_examples_whose_distribution_is_nan():
    p = torch.tensor([[[0.5, 0.5], [0.2, 0.8]]])
    q = torch.tensor([[[0.4, 0.6], [torch.nan, torch.nan]]])
    assert metrics.total_variation(p, q).item() == pytest.approx(0.1)
    assert metrics.total_variation(p, torch.full_like(p, torch.nan)).isnan().all()


def test_every_metric_is_declared_with_unit_and_direction(classified):
    output, _, target = classified
    p = output.softmax(-1)
    given = {
        *metrics.regression(p, target),
        *metrics.classification(
            p, target, recalibrated=p.log(), is_probability=torch.ones(3).bool()
        ),
        *metrics.clean_validation(p, target, task="regression"),
        *metrics.clean_validation(p, target, task="classification"),
        *metrics.of_wrong_labels(p, target, target),
        "kl",
        "tv_posterior",
        "tv_bayes",
    }
    assert given == set(records.METRICS)
    assert all(metric.direction in ("lower", "higher") for metric in records.METRICS.values())


def test_a_prediction_off_the_simplex_has_no_raw_nll_but_a_brier_score(classified):
    output, _, target = classified
    found = metrics.classification(
        output, target, recalibrated=output.log_softmax(-1), is_probability=torch.zeros(3).bool()
    )
    assert found["nll_raw"].isnan().all()
    assert found["ece_raw"].isnan().all()
    assert found["brier"].isfinite().all()
    assert (found["zero_share"] > 0).all()


def test_recalibration_ignores_what_the_softmax_ignores(classified):
    output, _, target = classified
    draw = torch.Generator().manual_seed(3)
    shift = 100 * torch.randn(3, 200, 1, generator=draw, dtype=torch.float64)
    plain, shifted = (
        metrics.recalibrated(z, metrics.recalibrate(z, target)) for z in (output, output + shift)
    )
    torch.testing.assert_close(plain, shifted, rtol=1e-6, atol=1e-6)
