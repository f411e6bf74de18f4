"""The common recalibration against optimizers, automatic derivatives and scikit-learn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import optimize
from sklearn import linear_model

from lossbench.measures import metric_values, recalibration
from lossbench.measures.recalibration import recalibrate, recalibrated


@pytest.fixture
def classified():
    """Outputs and one-hot labels, [3, 200, 4]."""
    draw = torch.Generator().manual_seed(0)
    output = 2.0 * torch.randn(3, 200, 4, generator=draw, dtype=torch.float64)
    label = torch.randint(4, (3, 200), generator=draw)
    return output, torch.nn.functional.one_hot(label, 4).double()


def test_the_likelihood_and_its_derivatives_are_those_of_the_textbook_formula(classified):
    """Behind the last example lies one without a label, which counts for nothing."""
    features, labels = (values.permute(2, 0, 1) for values in classified)
    filled = [torch.nn.functional.pad(values, (0, 1), value=0.0) for values in (features, labels)]
    parameters, start = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1)).double()

    found = recalibration._likelihood(parameters, start, recalibration._examples(*filled))
    for member in range(3):

        def textbook(own, member=member):
            log_p = (own[0] * features[:, member] + own[1:, None]).log_softmax(0)
            ridge = 0.5 * recalibration.RIDGE * (own - start[member]).square().sum()
            return -(labels[:, member] * log_p).sum(0).mean() + ridge

        own = parameters[member].requires_grad_()
        value = textbook(own)
        (slope,) = torch.autograd.grad(value, own)
        expected = value.detach(), slope, torch.autograd.functional.hessian(textbook, own)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one[member], other, rtol=1e-10, atol=1e-12)


def test_recalibration_finds_the_likeliest_scale_and_biases(classified):
    output, target = classified
    found = recalibrate(output, target)
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


def test_recalibration_stays_finite_where_classes_are_separated_or_outputs_constant():
    target = torch.nn.functional.one_hot(torch.arange(30) % 3, 3).double()
    output = torch.stack([100.0 * target, torch.zeros(30, 3).double()])
    scale = recalibrate(output, target.expand(2, 30, 3))
    assert scale.isfinite().all()
    assert recalibrated(output, scale)[0].exp().isfinite().all()


def test_recalibration_ignores_what_the_softmax_ignores(classified):
    output, target = classified
    draw = torch.Generator().manual_seed(3)
    shift = 100 * torch.randn(3, 200, 1, generator=draw, dtype=torch.float64)
    plain, shifted = (recalibrated(z, recalibrate(z, target)) for z in (output, output + shift))
    torch.testing.assert_close(plain, shifted, rtol=1e-6, atol=1e-6)


def test_recalibration_of_labels_is_one_logistic_regression_a_label():
    draw = torch.Generator().manual_seed(4)
    output = torch.randn(3, 120, 4, generator=draw, dtype=torch.float64)
    target = torch.bernoulli((1.5 * output).sigmoid(), generator=draw)
    parts = metric_values.label_outputs(output), metric_values.label_targets(target)
    apart = recalibrated(parts[0], recalibrate(*parts))
    found = apart.unflatten(0, (3, 4)).exp()[..., 1]
    for member, label in itertools.product(range(3), range(4)):
        z, y = output[member, :, label].numpy(), target[member, :, label].numpy()
        plain = linear_model.LogisticRegression(C=1e6, tol=1e-8).fit(z[:, None], y)
        expected = plain.predict_proba(z[:, None])[:, 1]
        np.testing.assert_allclose(found[member, label].numpy(), expected, atol=5e-3)
