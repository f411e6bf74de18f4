"""Stacked optimizers equal torch.optim step by step, with another rate for every member."""

from __future__ import annotations

import pytest
import torch

from lossbench.optimizers import (
    OPTIMIZERS,
    SCHEDULES,
    STATES,
    Hyperparameters,
    fresh_state,
    scheduled,
)

RATES, MOMENTA, DECAYS = [0.1, 0.01, 0.5], [0.0, 0.9, 0.5], [0.0, 0.1, 0.01]


def reference(name, place, parameters):
    shared = {"lr": RATES[place], "weight_decay": DECAYS[place]}
    if name == "sgd":
        return torch.optim.SGD(parameters, momentum=MOMENTA[place], **shared)
    return torch.optim.Adam(parameters, **shared)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_member_follows_torch_optim_for_50_steps(name, schedule):
    draw = torch.Generator().manual_seed(0)
    parameters = {
        "w": torch.randn(3, 4, 2, generator=draw).double(),
        "b": torch.randn(3, 2, generator=draw).double(),
    }
    hyper = Hyperparameters(
        *(torch.tensor(v, dtype=torch.float64) for v in (RATES, MOMENTA, DECAYS))
    )
    state = fresh_state(name, parameters)
    members = [
        {key: value[place].clone().requires_grad_() for key, value in parameters.items()}
        for place in range(3)
    ]
    optimizers = [reference(name, place, list(own.values())) for place, own in enumerate(members)]
    schedules = [
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
        if schedule == "cosine"
        else torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
        for optimizer in optimizers
    ]
    for step in range(50):
        gradient = {
            key: torch.randn(value.shape, generator=draw).double()
            for key, value in parameters.items()
        }
        now = scheduled(hyper, SCHEDULES[schedule](step, 50))
        parameters = OPTIMIZERS[name](parameters, gradient, state, step=step, hyper=now)
        for place, own in enumerate(members):
            for key, value in own.items():
                value.grad = gradient[key][place].clone()
            optimizers[place].step()
            schedules[place].step()
            for key, value in own.items():
                torch.testing.assert_close(
                    parameters[key][place], value.detach(), rtol=1e-12, atol=1e-14
                )


def test_every_optimizer_declares_its_buffers():
    assert STATES.keys() == OPTIMIZERS.keys()
