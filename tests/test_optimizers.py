"""Stacked optimizers equal torch.optim step by step, with another rate for every member."""

from __future__ import annotations

import pytest
import torch

from lossbench.optimizers import (
    OPTIMIZERS,
    SCALE_FREE,
    SCHEDULES,
    STATES,
    Hyperparameters,
    fresh_state,
    scheduled,
    warmup,
    warmup_cosine,
)

RATES, MOMENTA, DECAYS = [0.1, 0.01, 0.5], [0.0, 0.9, 0.5], [0.0, 0.1, 0.01]


REFERENCES = {
    "sgd": torch.optim.SGD,
    # torch refuses Nesterov's step without momentum, where it is the plain one.
    "nesterov": lambda parameters, **kw: torch.optim.SGD(
        parameters, nesterov=kw["momentum"] > 0, **kw
    ),
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
STEPS = 50


def reference(name, place, parameters):
    shared = {"lr": RATES[place], "weight_decay": DECAYS[place]}
    if "momentum" in STATES[name]:
        shared["momentum"] = MOMENTA[place]
    return REFERENCES[name](parameters, **shared)


def reference_schedule(name, optimizer):
    """torch's schedule; warm-up is a tenth of the steps."""
    schedulers, first = torch.optim.lr_scheduler, STEPS // 10
    if name == "constant":
        return schedulers.ConstantLR(optimizer, factor=1.0)
    if name == "cosine":
        return schedulers.CosineAnnealingLR(optimizer, T_max=STEPS)
    rising = schedulers.LinearLR(optimizer, start_factor=1 / (first + 1), total_iters=first)
    if name == "warmup":
        return rising
    falling = schedulers.CosineAnnealingLR(optimizer, T_max=STEPS - first)
    return schedulers.SequentialLR(optimizer, [rising, falling], milestones=[first])


# torch's SequentialLR calls its parts in a way that torch warns of.
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")
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
    schedules = [reference_schedule(schedule, optimizer) for optimizer in optimizers]
    for step in range(STEPS):
        gradient = {
            key: torch.randn(value.shape, generator=draw).double()
            for key, value in parameters.items()
        }
        now = scheduled(hyper, SCHEDULES[schedule](step, STEPS))
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


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameters_written_in_place_are_those_of_new_memory(name):
    draw = torch.Generator().manual_seed(2)
    shapes = {"w": (3, 4, 2), "b": (3, 2), "odd": (3, 1, 37)}
    parameters = {key: torch.randn(shape, generator=draw) for key, shape in shapes.items()}
    place = {key: value.clone() for key, value in parameters.items()}
    hyper = Hyperparameters(*(torch.tensor(values) for values in (RATES, MOMENTA, DECAYS)))
    states = [fresh_state(name, parameters) for _ in range(2)]
    for step in range(5):
        gradient = {key: torch.randn(v.shape, generator=draw) for key, v in parameters.items()}
        typed = {"step": step, "hyper": hyper}
        parameters = OPTIMIZERS[name](parameters, gradient, states[0], **typed)
        found = OPTIMIZERS[name](place, gradient, states[1], **typed, out=place)
        for key, value in parameters.items():
            assert found[key] is place[key]
            assert place[key].equal(value)


def trained(name, *, factor, decay):
    """Parameters after some steps on gradients of a loss that is multiplied by a factor."""
    draw = torch.Generator().manual_seed(1)
    parameters = {"w": torch.randn(2, 6, generator=draw).double()}
    hyper = Hyperparameters(*(torch.full((2,), v).double() for v in (0.1, 0.9, decay)))
    state = fresh_state(name, parameters)
    for step in range(10):
        gradient = {"w": factor * torch.randn(2, 6, generator=draw).double()}
        parameters = OPTIMIZERS[name](parameters, gradient, state, step=step, hyper=hyper)
    return parameters["w"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_multiple_of_a_loss_trains_alike_where_an_optimizer_is_free_of_scale(name):
    found = [trained(name, factor=factor, decay=0.0) for factor in (1, 64)]
    assert torch.allclose(*found, rtol=1e-5) == (name in SCALE_FREE)


@pytest.mark.parametrize(("name", "is_free"), [("adam", False), ("adamw", True)])
def test_decoupled_decay_is_free_of_scale_and_decay_through_the_gradient_is_not(name, is_free):
    found = [trained(name, factor=factor, decay=0.5) for factor in (1, 64)]
    assert torch.allclose(*found, rtol=1e-5) == is_free


@pytest.mark.parametrize("schedule", [warmup, warmup_cosine])
def test_a_warm_up_rises_in_equal_parts_and_reaches_one_right_behind_its_share(schedule):
    factors = [schedule(step, 40, share=0.1) for step in range(40)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert max(factors) == 1.0
    # 0.29 x 100 is a little less than 29 in floating point.
    assert schedule(28, 100, share=0.29) == pytest.approx(29 / 30)


def test_a_warm_up_stays_or_falls_to_the_final_factor():
    assert {warmup(step, 40) for step in range(4, 40)} == {1.0}
    assert warmup_cosine(40, 40, final=0.25) == pytest.approx(0.25)
    assert warmup_cosine(22, 40, final=0.5) == pytest.approx(0.75)


@pytest.mark.parametrize("schedule", [warmup, warmup_cosine])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_warm_up_may_be_nothing_or_all(schedule, share):
    factors = [schedule(step, 10, share=share) for step in range(10)]
    assert (factors[0] == 1.0) == (share == 0.0)
    assert all(0 < factor <= 1 for factor in factors)


@pytest.mark.parametrize("schedule", [warmup, warmup_cosine])
@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_that_is_none_is_refused(schedule, share):
    with pytest.raises(ValueError, match="use 0 to 1"):
        schedule(0, 10, share=share)
