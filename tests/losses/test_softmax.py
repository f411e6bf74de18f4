"""Softmax over few classes: torch's own values, whatever stands beside an example."""

from __future__ import annotations

import pytest
import torch

from lossbench.losses.softmax import (
    FEW_CLASSES,
    exact_log_softmax,
    exact_softmax,
    largest,
    log_softmax,
    softmax,
)

PAIRS = [(softmax, torch.softmax), (log_softmax, torch.log_softmax)]
NAMES = ["softmax", "log_softmax"]


@pytest.mark.parametrize("classes", [1, 2, 3, FEW_CLASSES - 1, FEW_CLASSES, 100])
@pytest.mark.parametrize(("ours", "torchs"), PAIRS, ids=NAMES)
def test_values_and_gradients_are_those_of_torch(ours, torchs, classes):
    draw = torch.Generator().manual_seed(0)
    output = 5 * torch.randn(3, 7, classes, generator=draw, dtype=torch.float64)
    weight = torch.randn(3, 7, classes, generator=draw, dtype=torch.float64)
    found = []
    for function in (ours, lambda values: torchs(values, -1)):
        leaf = output.clone().requires_grad_()
        values = function(leaf)
        found.append((values.detach(), torch.autograd.grad((weight * values).sum(), leaf)[0]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("classes", [2, 3, 5, 10])
@pytest.mark.parametrize(("ours", "_"), PAIRS, ids=NAMES)
def test_the_bits_of_an_example_depend_on_no_other_example(ours, _, classes):
    output = 5 * torch.randn(481, classes, generator=torch.Generator().manual_seed(1))
    together = ours(output)
    assert all(torch.equal(ours(output[at : at + 1])[0], together[at]) for at in range(481))
    assert torch.equal(ours(output[:480].view(4, 120, classes)).view(480, classes), together[:480])


def test_the_results_numbers_lie_side_by_side_as_sums_over_classes_need_them():
    assert softmax(torch.zeros(4, 5, 3)).is_contiguous()


@pytest.mark.parametrize(("ours", "torchs"), PAIRS, ids=NAMES)
def test_second_derivatives_and_vmap_are_served(ours, torchs):
    output = torch.randn(4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert torch.autograd.gradgradcheck(ours, output.clone().requires_grad_())
    jacobians = torch.func.vmap(torch.func.jacrev(ours))(output)
    expected = torch.func.vmap(torch.func.jacrev(lambda values: torchs(values, -1)))(output)
    torch.testing.assert_close(jacobians, expected)


EXACT = [(exact_softmax, softmax), (exact_log_softmax, log_softmax)]


@pytest.mark.parametrize("classes", [5, 20])
@pytest.mark.parametrize(("exact", "plain"), EXACT, ids=NAMES)
def test_where_one_is_exact_values_keep_their_bits_and_a_certain_output_the_digits_of_its_slope(
    exact, plain, classes
):
    draw = torch.Generator().manual_seed(0)
    output, upstream = (torch.randn(200, classes, generator=draw) for _ in range(2))
    output[:, 0] += torch.linspace(0.0, 60.0, 200)
    assert exact(output).equal(plain(output))

    def slope(function):
        leaf = output.clone().requires_grad_()
        return torch.autograd.grad((upstream * function(leaf)).sum(), leaf)[0].double()

    ours, torchs = slope(exact), slope(plain)
    torch.testing.assert_close(ours[:, 0], -ours[:, 1:].sum(-1), rtol=1e-3, atol=0)
    # Of the others torch's own slopes are right.
    torch.testing.assert_close(ours[:, 1:], torchs[:, 1:], rtol=1e-5, atol=0)


@pytest.mark.parametrize("classes", [1, 2, 5, FEW_CLASSES, 40])
def test_the_largest_entry_and_its_place_are_torchs_the_first_of_equal_ones(classes):
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(3, 50, classes, generator=draw).round(decimals=1)  # with ties
    values[0, 0] = -torch.inf
    most, place = largest(values)
    assert torch.equal(most, values.amax(-1))
    assert torch.equal(place, values.argmax(-1))


def test_the_place_of_the_largest_entry_is_one_of_the_classes_where_entries_are_not_numbers():
    values = torch.full((2, 4, 3), torch.nan)
    assert largest(values)[1].ge(0).all()
    assert largest(values)[1].lt(3).all()
