"""Starts: changes of a model's parameters before training, `init.from`, the same for every loss.

The code counts for the identity of the runs that use it, and of those only, so it stands below
the configuration and not in the engine.
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
    """Take over the state of a model that was trained before, on other examples.

    Before anything is trained, as where time is forecast, there is none: the model stays as it is.
    """
    if before is not None:
        model.load_state_dict(before)


def permuted_labels(
    model: nn.Module, inputs: Tensor, targets: Tensor, *, seed: int, before: State | None
) -> None:
    """Fit the model to the training targets with the classes permuted: confidently wrong.

    No class keeps its place. The recipe knows neither loss nor learning rate nor pack: cross
    entropy on the model's outputs, Adam at `RATE`, `UPDATES` updates on the whole split, on the
    CPU in the type of the targets.

    Args:
        model: Changed in place.
        inputs: Inputs of the training split, [N, ...].
        targets: Labels or distributions of the training split, [N, C]; of sequences [N T, C].
        seed: Draws the permutation.
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
    """A permutation of 0 to `count` - 1 that leaves nothing in its place, all equally likely."""
    draw, places = stream(seed, "prefit"), torch.arange(count)
    while True:  # one permutation of three has no fixed point
        order = torch.randperm(count, generator=draw)
        if not (order == places).any():
            return order


STARTS: dict[str, Callable[..., None]] = {
    "random": random,
    "permuted_labels": permuted_labels,
    "pretrained": pretrained,
}
