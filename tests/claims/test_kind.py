"""What a bare function is found to be, and what is refused and said of it."""

from __future__ import annotations

import pytest
import torch

from lossbench import claims
from lossbench.claims import kind
from lossbench.errors import ConfigError
from lossbench.losses import LOSSES
from lossbench.losses.spec import Loss
from lossbench.user_code import bare_row

OTHER_LINKS = {"msle", "mse_logits", "rescaled_square", "softcap"}
"""Of another task behind the links that are tried: by the formula alone they could be that."""


@pytest.mark.parametrize(
    "row", [row for row in LOSSES.values() if row.outputs_per_target == 1], ids=lambda row: row.name
)
def test_the_task_of_a_loss_of_the_catalog_is_found_and_a_usual_link_with_it(row):
    task, link, _ = kind.guessed(row)
    if row.name in OTHER_LINKS:
        assert (task, link) != (row.task, row.inverse_link)
    else:
        assert task == row.task
        if row.inverse_link in ("identity", "sigmoid") and "minimised_at_target" in row.claims:
            assert link == row.inverse_link


def test_a_task_that_is_said_restricts_the_links():
    assert kind.guessed(LOSSES["mse"])[:2] == ("regression", "identity")
    assert kind.guessed(LOSSES["mse"], "classification")[0] == "classification"


def test_a_function_that_is_least_nowhere_and_prefers_no_label_is_asked_about():
    with pytest.raises(ConfigError, match="Say --task regression"):
        kind.guessed(loss(lambda output, target: output.sum(-1)))


@pytest.mark.parametrize("row", LOSSES.values(), ids=lambda row: row.name)
def test_no_loss_of_the_catalog_is_refused(row):
    assert kind.refused(row) == ""


def loss(function, task="regression", link="identity") -> Loss:
    function.__name__ = "mine"
    return bare_row(function, task, link)


def changing(output, target):
    target.mul_(2)
    return (output - target).square().sum(-1)


REFUSED = {
    "a mean": (lambda output, target: (output - target).square().mean(), "reduces over examples"),
    "no sum": (lambda output, target: (output - target).square(), "another shape than examples"),
    "NaN": (lambda output, target: -(target * output.log()).sum(-1), "not finite at ordinary"),
    "a number": (lambda output, target: 3.0, "returns float"),
    "a detached output": (
        lambda output, target: (output.detach() - target).square().sum(-1),
        "has no gradient",
    ),
    "a changed argument": (changing, "changes its arguments"),
    "an if": (
        lambda output, target: (output - target).abs().sum(-1) * (2 if output.sum() > 1e9 else 1),
        "use torch.where",
    ),
}


@pytest.mark.parametrize(("function", "message"), REFUSED.values(), ids=REFUSED)
def test_what_could_not_be_trained_is_refused_with_the_cure(function, message):
    assert message in kind.refused(loss(function))


class Squared(torch.autograd.Function):
    """As many packages write a loss: a forward pass, and its derivative by hand."""

    @staticmethod
    def forward(ctx, error):
        ctx.save_for_backward(error)
        return error.square().sum(-1)

    @staticmethod
    def backward(ctx, gradient):
        (error,) = ctx.saved_tensors
        return 2.0 * error * gradient[..., None]


def test_a_loss_with_a_derivative_written_by_hand_and_one_that_draws_can_be_trained_and_measured():
    mine = loss(lambda output, target: Squared.apply(output - target))
    assert kind.refused(mine) == ""
    assert claims.measure(mine)["convex"].holds
    drawing = loss(lambda output, target: (output - target).square().sum(-1) * torch.rand(()))
    assert kind.refused(drawing) == ""


def test_what_is_unsound_is_said():
    def noisy(output, target):
        return (output - target).square().sum(-1) * torch.rand(())

    def overflowing(output, target):
        return (output - target).exp().sum(-1)

    assert any("draws random numbers" in text for text in kind.unsound(loss(noisy)))
    assert any("not finite in float32" in text for text in kind.unsound(loss(overflowing)))
    assert not [*kind.unsound(LOSSES["huber"])]


def test_the_nearest_losses_point_most_alike_and_are_no_doubles():
    among = [row for row in LOSSES.values() if row.domain == "real"]
    near = claims.nearest(LOSSES["huber"], among, count=3)
    assert next(iter(near)) == "log_cosh"
    assert "smooth_l1" not in near  # the same at its default
    assert [*near.values()] == sorted(near.values(), reverse=True)


ONE_VERSUS_ALL = {"ova_hinge", "ova_squared_hinge", "ova_exponential", "bce_ova"}
ONE_VERSUS_ALL |= {"savage", "tangent", "mse_sigmoid", "mse_logits", "rescaled_square"}


@pytest.mark.parametrize(
    "row",
    [row for row in LOSSES.values() if row.task == "classification"],
    ids=lambda row: row.name,
)
def test_classes_compete_in_all_losses_but_those_of_one_against_all(row):
    assert kind.is_separable(row) == (row.name in ONE_VERSUS_ALL)
    with torch.no_grad():
        kind.is_separable.cache_clear()
        assert kind.is_separable(row) == (row.name in ONE_VERSUS_ALL)


def test_a_loss_that_weighs_a_class_by_the_others_targets_is_not_separable():
    def weighed(output, target):
        entries = torch.nn.functional.softplus(output) - target * output
        return entries.sum(-1) * (1.0 + target.sum(-1))

    assert not kind.is_separable(loss(weighed, "classification", "sigmoid"))
