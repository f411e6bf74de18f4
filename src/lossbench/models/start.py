"""Starts (`init.from`): changes of a model's parameters before training, the same for every loss.

This code is part of the identity of the runs that use it, and of no other run. So the module is
not part of the engine, whose code is part of the identity of every run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from lossbench.fingerprints import stream
from lossbench.optimizers import Hyperparameters, adam, fresh_state

State = Mapping[str, Tensor]
"""Parameters and buffers by name."""

UPDATES = 100
RATE = 0.02


def random(
    model: nn.Module, inputs: Tensor, targets: Tensor, *, seed: int, before: State | None
) -> None:
    """Leave the model as it was initialised."""


def pretrained(
    model: nn.Module, inputs: Tensor, targets: Tensor, *, seed: int, before: State | None
) -> None:
    """Load the state of a model that was trained before, on other examples.

    If `before` is None because no model is trained yet, as in a forecast of run times, the model
    stays as it is.
    """
    if before is not None:
        model.load_state_dict(before)


def permuted_labels(
    model: nn.Module, inputs: Tensor, targets: Tensor, *, seed: int, before: State | None
) -> None:
    """Train the model on targets with permuted classes, so that it starts confidently wrong.

    No class keeps its place. The recipe does not depend on the loss, the learning rate or the pack:
    `UPDATES` updates of Adam at `RATE` on the cross entropy of the whole split, on the CPU in the
    type of the targets.

    Args:
        model: Model to change in place.
        inputs: Inputs of the training split, [N, ...].
        targets: Labels or distributions of the training split, [N, C]; of sequences [N T, C].
        seed: Seed of the permutation.
        before: Not used.
    """
    wrong = targets[:, derangement(targets.shape[-1], seed=seed)]
    parameters = dict(model.named_parameters())
    state = fresh_state("adam", parameters)
    rate = torch.full((1,), RATE, dtype=targets.dtype)
    hyper = Hyperparameters(lr=rate, momentum=0 * rate, weight_decay=0 * rate)
    for step in range(UPDATES):
        value = functional.cross_entropy(model(inputs).flatten(0, -2), wrong)
        gradient = torch.autograd.grad(value, list(parameters.values()))
        with torch.no_grad():
            gradient_of = dict(zip(parameters, gradient, strict=True))
            after = adam(parameters, gradient_of, state, step=step, hyper=hyper)
            for name, parameter in parameters.items():
                parameter.copy_(after[name])


def derangement(count: int, *, seed: int) -> Tensor:
    """Random permutation of 0 to `count` - 1 without fixed points, all of these equally likely."""
    draw, places = stream(seed, "prefit"), torch.arange(count)
    while True:  # about one permutation in three has no fixed point
        order = torch.randperm(count, generator=draw)
        if not (order == places).any():
            return order


STARTS: dict[str, Callable[..., None]] = {
    "random": random,
    "permuted_labels": permuted_labels,
    "pretrained": pretrained,
}
