"""Softmax over few classes: torch's own values, whatever stands beside an example."""

from __future__ import annotations

import pytest
import torch

from lossbench.losses.softmax import FEW_CLASSES, log_softmax, softmax

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
