"""Stacked optimizers equal torch.optim step by step, with another rate for every member."""

from __future__ import annotations

import pytest
import torch

from lossbench.optimizers import (
    BY_MATRIX,
    NEWTON_SCHULZ,
    OPTIMIZERS,
    SCALE_FREE,
    SCHEDULES,
    STATES,
    Hyperparameters,
    fresh_state,
    orthogonal,
    scheduled,
    warmup,
    warmup_cosine,
)

RATES, MOMENTA, DECAYS = [0.1, 0.01, 0.5], [0.0, 0.9, 0.5], [0.0, 0.1, 0.01]


class Lion(torch.optim.Optimizer):
    """Algorithm 2 of Chen et al. 2023, line by line."""

    def __init__(self, parameters, lr, weight_decay):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for theta in group["params"]:
                m = self.state[theta].setdefault("m", torch.zeros_like(theta))
                c = 0.9 * m + (1 - 0.9) * theta.grad
                theta -= group["lr"] * (c.sign() + group["weight_decay"] * theta)
                self.state[theta]["m"] = 0.99 * m + (1 - 0.99) * theta.grad


class Muon(torch.optim.Optimizer):
    """torch's Muon of matrices in exact arithmetic, by singular values; torch's AdamW of others.

    A Newton-Schulz step is an odd polynomial: it leaves singular vectors alone.
    """

    def __init__(self, parameters, lr, weight_decay, momentum):
        parameters = [*parameters]
        matrices = [value for value in parameters if value.dim() == 2]
        super().__init__(parameters, {"lr": lr})
        self._muon = torch.optim.Muon(matrices, lr, weight_decay, momentum)
        rest = [value for value in parameters if value.dim() != 2]
        self._adamw = torch.optim.AdamW(rest, lr=lr, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self):
        (adamw,) = self._adamw.param_groups
        adamw["lr"] = self.param_groups[0]["lr"]
        self._adamw.step()
        (group,) = self._muon.param_groups
        for theta in group["params"]:
            state = self.state[theta]
            mean = state.setdefault("mean", torch.zeros_like(theta))
            mean.lerp_(theta.grad, 1 - group["momentum"])
            left, values, right = torch.linalg.svd(
                theta.grad.lerp(mean, group["momentum"]), full_matrices=False
            )
            values = values / values.norm()
            for _ in range(group["ns_steps"]):
                a, b, c = group["ns_coefficients"]
                values = a * values + b * values**3 + c * values**5
            rate = adamw["lr"] * max(1, theta.shape[0] / theta.shape[1]) ** 0.5
            theta *= 1 - adamw["lr"] * group["weight_decay"]
            theta -= rate * (left * values) @ right


REFERENCES = {
    "sgd": torch.optim.SGD,
    # torch refuses Nesterov's step without momentum, where it is the plain one.
    "nesterov": lambda parameters, **kw: torch.optim.SGD(
        parameters, nesterov=kw["momentum"] > 0, **kw
    ),
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "lion": Lion,
    "muon": Muon,
}
STEPS = 50


def optimized(name, *args, **kwargs):
    """The next parameters; matrices of those tests are called w."""
    known = {"matrices": {"w"}} if name in BY_MATRIX else {}
    return OPTIMIZERS[name](*args, **kwargs, **known)


def reference(name, place, parameters):
    shared = {"lr": RATES[place], "weight_decay": DECAYS[place]}
    if "momentum" in STATES[name] or name == "muon":
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
        parameters = optimized(name, parameters, gradient, state, step=step, hyper=now)
        for place, own in enumerate(members):
            for key, value in own.items():
                value.grad = gradient[key][place].clone()
            optimizers[place].step()
            schedules[place].step()
            for key, value in own.items():
                # Newton-Schulz steps multiply what rounding leaves by up to 485.
                rtol, atol = (1e-9, 1e-11) if name == "muon" else (1e-12, 1e-14)
                torch.testing.assert_close(
                    parameters[key][place], value.detach(), rtol=rtol, atol=atol
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
        parameters = optimized(name, parameters, gradient, states[0], **typed)
        found = optimized(name, place, gradient, states[1], **typed, out=place)
        for key, value in parameters.items():
            assert found[key] is place[key]
            assert place[key].equal(value)


def trained(name, *, factor, decay):
    """Parameters after some steps on gradients of a loss that is multiplied by a factor."""
    draw = torch.Generator().manual_seed(1)
    parameters = {"w": torch.randn(2, 3, 2, generator=draw).double()}
    hyper = Hyperparameters(*(torch.full((2,), v).double() for v in (0.1, 0.9, decay)))
    state = fresh_state(name, parameters)
    for step in range(10):
        gradient = {"w": factor * torch.randn(2, 3, 2, generator=draw).double()}
        parameters = optimized(name, parameters, gradient, state, step=step, hyper=hyper)
    return parameters["w"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_multiple_of_a_loss_trains_alike_where_an_optimizer_is_free_of_scale(name):
    found = [trained(name, factor=factor, decay=0.0) for factor in (1, 64)]
    assert torch.allclose(*found, rtol=1e-5) == (name in SCALE_FREE)


@pytest.mark.parametrize("adjust", [None, "match_rms_adamw"])
@pytest.mark.parametrize("shape", [(6, 3), (3, 6), (4, 4)])
def test_a_matrix_moves_as_torchs_muon_moves_it_up_to_its_half_precision(shape, adjust):
    draw, given = torch.Generator().manual_seed(3), {"momentum": 0.9, "weight_decay": 0.1}
    value = torch.randn(1, *shape, generator=draw).double()
    theirs = value[0].clone().requires_grad_()
    optimizer = torch.optim.Muon([theirs], lr=0.1, **given, adjust_lr_fn=adjust)
    hyper = Hyperparameters(*(torch.full((1,), v).double() for v in (0.1, 0.9, 0.1)))
    state = fresh_state("muon", {"w": value})
    params = {"adjust": adjust} if adjust else {}
    for step in range(3):
        gradient = torch.randn(1, *shape, generator=draw).double()
        theirs.grad, before = gradient[0].clone(), value
        mine = optimized(
            "muon", {"w": value}, {"w": gradient}, state, step=step, hyper=hyper, **params
        )
        value = mine["w"]
        optimizer.step()
        moved = (value - before).norm()
        assert (value[0] - theirs.detach()).norm() < 0.05 * moved
        value = theirs.detach()[None].clone()  # so that what they round does not add up


def test_an_orthogonal_matrix_has_singular_values_near_one():
    draw = torch.Generator().manual_seed(4)
    values = torch.linalg.svdvals(orthogonal(torch.randn(3, 8, 5, generator=draw).double()))
    assert 0.6 < values.min() <= values.max() < 1.3
    assert not orthogonal(torch.zeros(2, 3, 3)).any()
    assert torch.optim.Muon([torch.zeros(2, 2)]).defaults["ns_coefficients"] == NEWTON_SCHULZ


def test_muon_leaves_all_but_the_named_matrices_to_adamw():
    draw = torch.Generator().manual_seed(5)
    parameters = {name: torch.randn(2, 4, 3, generator=draw) for name in ("w", "head")}
    gradient = {name: torch.randn(2, 4, 3, generator=draw) for name in parameters}
    hyper = Hyperparameters(*(torch.full((2,), v) for v in (0.1, 0.9, 0.1)))
    given = {"step": 0, "hyper": hyper}
    after = {
        name: optimized(name, parameters, gradient, fresh_state(name, parameters), **given)
        for name in ("muon", "adamw")
    }
    assert after["muon"]["head"].equal(after["adamw"]["head"])
    assert not torch.allclose(after["muon"]["w"], after["adamw"]["w"], atol=1e-3)


def test_an_adjustment_that_is_none_is_refused():
    one = {"w": torch.ones(1, 2, 2)}
    hyper = Hyperparameters(*(torch.ones(1),) * 3)
    with pytest.raises(ValueError, match="adjust is 'none': use original or match_rms_adamw"):
        optimized("muon", one, one, fresh_state("muon", one), step=0, hyper=hyper, adjust="none")


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
