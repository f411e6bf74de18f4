"""Instruments against independent truth, their schedule, and that they leave training alone."""

from __future__ import annotations

import dataclasses
import itertools
import math
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from configs import make_run
from torch import nn
from torch.nn import functional
from training import (
    CPU,
    VOLATILE,
    assert_same_records,
    grouped,
    members_of,
    records_of,
    trained,
)

from lossbench import records
from lossbench.engine import Machine, moments, train
from lossbench.engine.members import initial_model
from lossbench.engine.state import decoded
from lossbench.losses import LOSSES
from lossbench.losses.spec import Loss
from lossbench.measures.instruments import MEASURES, due, examples, interval, times
from lossbench.measures.instruments.curvature import hessian_product, largest_eigenvalue
from lossbench.measures.instruments.features import class_scatter
from lossbench.measures.instruments.gradients import CORE
from lossbench.measures.instruments.moment import flat
from lossbench.models import MODELS, Model
from lossbench.question import packs
from lossbench.records import INSTRUMENTS
from lossbench.sweep import splits_of

TINY = {
    "model__params": {"widths": [5], "activation": "tanh"},
    "engine__precision": "float64",
    "batch_size": 12,
    "steps": 3,
}
NOISY = {"data": "digits", "data__corruption": {"name": "symmetric", "params": {"rate": 0.4}}}
EVERY = [*INSTRUMENTS]


def caught(runs, step=2):
    """The update of a step, and the pack's instruments, as training has them."""
    runs = [make_run(**{**one, "instruments": EVERY}) for one in runs]
    kept = {}

    def measured(self, names, step, update, state):
        kept["moment"] = self.moment(step, update, state, range(len(update.loss)))
        return {}

    with pytest.MonkeyPatch.context() as patch:  # nothing hands out what an instrument is given
        patch.setattr(moments.Instruments, "due", lambda self, now: EVERY if now == step else [])
        patch.setattr(moments.Instruments, "measured", measured)
        (pack,) = packs.group(runs, pack_size=1000)
        trained(pack.runs)
    return pack.runs, kept["moment"]


def loss_at(run, moment, place):
    """A member's mean own loss as a function of one vector of parameters, in plain torch."""
    splits = splits_of(run)
    model = initial_model(run, splits, seed=run.seed).double()
    shapes = {name: value[place] for name, value in moment.parameters.items()}

    def value(vector):
        parts = vector.split([each.numel() for each in shapes.values()])
        state = {n: p.view(s.shape) for (n, s), p in zip(shapes.items(), parts, strict=True)}
        output = torch.func.functional_call(model, state, (moment.inputs[place],))
        return run.row.fn(output, moment.target[place], **run.loss.params).mean()

    return value, torch.cat([each.flatten() for each in shapes.values()])


# ---- curvature -----------------------------------------------------------------------------------


def test_the_hessian_of_mse_on_a_linear_model_is_the_second_moment_of_its_inputs():
    run = {**TINY, "model__name": "linear", "model__fn": "linear", "model__params": {}}
    _, moment = caught([run])
    inputs = moment.inputs[0].numpy()
    design = np.hstack([inputs, np.ones((len(inputs), 1))])
    expected = design.T @ design / len(design)
    product = hessian_product(moment.mean_loss, moment.parameters)
    count, size = len(moment.loss), len(expected)
    found = [product(row.expand(count, -1))[0].numpy() for row in torch.eye(size).double()]
    np.testing.assert_allclose(np.array(found), expected, rtol=1e-9, atol=1e-12)
    top = MEASURES["curvature"](moment)["curvature_top"][0].item()
    assert top == pytest.approx(np.linalg.eigvalsh(expected)[-1], rel=1e-9)


SMALL_DATA = {"regression": "diabetes", "classification": "gaussian_mixture"}


@pytest.mark.parametrize("name", [*CORE["regression"], *CORE["classification"]])
def test_hessian_vector_products_equal_the_whole_hessian(name):
    data = SMALL_DATA[LOSSES[name].task]
    runs, moment = caught([{**TINY, "data": data, "loss": name, "seed": seed} for seed in (0, 1)])
    product = hessian_product(moment.mean_loss, moment.parameters)
    draw = torch.Generator().manual_seed(1)
    for place, run in enumerate(runs):
        value, at = loss_at(run, moment, place)
        whole = torch.autograd.functional.hessian(value, at)
        vectors = torch.randn(len(moment.loss), len(at), generator=draw, dtype=torch.float64)
        torch.testing.assert_close(
            product(vectors)[place], whole @ vectors[place], rtol=1e-8, atol=1e-10
        )


def test_the_trace_is_the_mean_over_the_seeds_signs_and_the_step_bends_as_the_hessian_says():
    runs, moment = caught([{**TINY, "loss": loss} for loss in ("mse", "quartic")])
    found = MEASURES["curvature"](moment) | MEASURES["sharpness"](moment)
    for place, run in enumerate(runs):
        value, at = loss_at(run, moment, place)
        whole = torch.autograd.functional.hessian(value, at)
        step = flat(moment.update.values())[place]
        expected = step @ whole @ step / (step @ step)
        assert found["step_curvature"][place].item() == pytest.approx(expected.item(), rel=1e-8)
        change = value(at + step) - value(at)
        assert found["step_loss_change"][place].item() == pytest.approx(change.item(), abs=1e-12)
        # Eight vectors of signs: the standard deviation has a closed form.
        apart = whole.square().sum() - whole.diagonal().square().sum()
        deviation = (2 * apart / 8).sqrt().item()
        trace = found["curvature_trace"][place].item()
        assert 0 < abs(trace - whole.trace().item()) < 4 * deviation


@pytest.mark.parametrize("size", [1, 3, 40])
def test_lanczos_finds_the_largest_eigenvalue_and_stops_where_the_space_ends(size):
    draw = torch.Generator().manual_seed(size)
    halves = torch.randn(5, size, size, generator=draw, dtype=torch.float64)
    matrices = halves + halves.transpose(1, 2)
    matrices[0] = -torch.eye(size)  # one eigenvalue, below zero: the first vector uses it up
    matrices[1] = 0.0

    def product(vectors):
        return torch.einsum("kij,kj->ki", matrices, vectors)

    start = torch.randn(5, size, generator=draw, dtype=torch.float64)
    found = largest_eigenvalue(product, start, steps=size)
    expected = np.linalg.eigvalsh(matrices.numpy())[:, -1]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-8, atol=1e-10)


def test_sixteen_products_bring_the_largest_eigenvalue_of_a_network_within_two_percent():
    runs = [{"data": "digits", "loss": loss} for loss in ("cross_entropy", "brier", "mae_probs")]
    _, moment = caught([{**run, "steps": 40, "batch_size": 64} for run in runs], step=39)
    product = hessian_product(moment.mean_loss, moment.parameters)
    start = torch.randn(len(moment.loss), sum(v[0].numel() for v in moment.parameters.values()))
    better = largest_eigenvalue(product, start, steps=60)
    found = MEASURES["curvature"](moment)["curvature_top"]
    assert ((found / better - 1).abs() < 0.02).all()


def test_nan_parameters_of_a_member_leave_the_curvature_of_the_others():
    start = torch.ones(3, 4, dtype=torch.float64)

    def product(vectors):
        return vectors * torch.tensor([[1.0], [math.nan], [2.0]], dtype=torch.float64)

    found = largest_eigenvalue(product, start, steps=3)
    assert found[[0, 2]].tolist() == pytest.approx([1.0, 2.0])
    assert found[1].isnan()


# ---- gradients -----------------------------------------------------------------------------------


def gradients(run, moment, place, row, params):
    """Gradient of every example's loss, [B, P], by a loop over examples."""
    model = initial_model(run, splits_of(run), seed=run.seed).double()
    state = {name: value[place] for name, value in moment.parameters.items()}
    model.load_state_dict({**model.state_dict(), **state})
    found = []
    for inputs, target in zip(moment.inputs[place], moment.target[place], strict=True):
        model.zero_grad()
        row.fn(model(inputs[None]), target[None], **params).sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    return torch.stack(found).numpy()


@pytest.mark.parametrize(("batch", "groups"), [(6, 6), (20, 8)])
def test_the_noise_scale_is_that_of_gradients_example_by_example(batch, groups):
    runs, moment = caught(
        [{**TINY, "loss": loss, "batch_size": batch} for loss in ("mse", "quartic")]
    )
    found = MEASURES["gradient_noise"](moment)
    for place, run in enumerate(runs):
        each = gradients(run, moment, place, run.row, run.loss.params)
        size = batch // groups
        means = each[: groups * size].reshape(groups, size, -1).mean(1)
        trace = size * np.trace(np.atleast_2d(np.cov(means.T)))
        square = (means.mean(0) ** 2).sum() - trace / (groups * size)
        assert found["gradient_noise_trace"][place].item() == pytest.approx(trace, rel=1e-8)
        assert found["gradient_square"][place].item() == pytest.approx(square, rel=1e-6)
        scale = found["gradient_noise_scale"][place].item()
        expected = trace / square if square > 0 else math.nan
        assert scale == pytest.approx(expected, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("task", CORE)
def test_agreement_is_the_cosine_of_whole_gradients(task):
    runs, moment = caught(
        [{**TINY, "data": SMALL_DATA[task], "loss": name} for name in CORE[task][:3]]
    )
    found = MEASURES["gradient_agreement"](moment)
    assert {*found} == {f"agreement:{name}" for name in CORE[task]}
    for place, run in enumerate(runs):
        own = gradients(run, moment, place, run.row, {}).mean(0)
        for name in CORE[task]:
            other = gradients(run, moment, place, LOSSES[name], {}).mean(0)
            cosine = own @ other / np.linalg.norm(own) / np.linalg.norm(other)
            expected = math.nan if name == run.loss.fn else cosine
            value = found[f"agreement:{name}"][place].item()
            assert value == pytest.approx(expected, rel=1e-8, nan_ok=True)


def test_agreement_is_measured_where_the_inverse_link_is_the_same():
    runs, moment = caught(
        [{**TINY, "data": "gaussian_mixture", "loss": loss} for loss in ("brier", "mse_logits")]
    )
    found = MEASURES["gradient_agreement"](moment)
    has = [run.loss.name == "brier" for run in runs]
    assert found["agreement:gce"][: len(runs)].isfinite().tolist() == has


# ---- examples, features --------------------------------------------------------------------------


def test_the_hardest_tenth_and_the_mislabelled_have_their_share_of_the_signal():
    runs, moment = caught(
        [{**TINY, **NOISY, "loss": loss, "batch_size": 25} for loss in ("brier", "cross_entropy")]
    )
    found = MEASURES["error_signal"](moment)
    for place, run in enumerate(runs):
        error = (moment.prediction - moment.target)[place].norm(dim=-1).numpy()
        signal = moment.output_gradient[place].square().sum(-1).numpy()
        hardest = np.argsort(error)[-3:]
        clean = splits_of(run).clean["train"]
        given = splits_of(run).targets["train"]
        rows = [
            int((splits_of(run).inputs["train"].double() == one).all(-1).nonzero()[0])
            for one in moment.inputs[place]
        ]
        wrong = (clean[rows] != given[rows]).any(-1).numpy()
        assert 0 < wrong.mean() < 1
        expected = {
            "signal_hardest": signal[hardest].sum() / signal.sum(),
            "signal_mislabelled": signal[wrong].sum() / signal.sum(),
            "mislabelled_share": wrong.mean(),
        }
        for metric, value in expected.items():
            assert found[metric][place].item() == pytest.approx(value, rel=1e-9)


def test_without_corruption_nothing_is_mislabelled_or_clean():
    _, moment = caught([{**TINY, "data": "digits", "loss": "brier"}])
    found = MEASURES["error_signal"](moment)
    assert moment.clean is None
    assert found["signal_mislabelled"].isnan().all()
    assert found["signal_hardest"].isfinite().all()


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_quantiles_are_numpys(batch):
    _, moment = caught([{**TINY, "loss": "mae", "batch_size": batch}])
    found = MEASURES["loss_quantiles"](moment)
    for level in examples.LEVELS:
        expected = np.percentile(moment.loss.numpy(), level, axis=-1)
        np.testing.assert_allclose(found[f"loss_quantile_{level}"].numpy(), expected, rtol=1e-12)


def test_class_scatter_is_the_ratio_of_traces_of_both_covariances():
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(3, 40, 6, generator=draw, dtype=torch.float64)
    labels = torch.randint(4, (3, 40), generator=draw)
    found = class_scatter(features, functional.one_hot(labels, 5).double())  # one class is empty
    for place in range(3):
        rows, own = features[place].numpy(), labels[place].numpy()
        within, between = np.zeros((6, 6)), np.zeros((6, 6))
        for label in range(4):
            some = rows[own == label]
            within += (some - some.mean(0)).T @ (some - some.mean(0)) / 40
            off = some.mean(0) - rows.mean(0)
            between += len(some) / 40 * np.outer(off, off)
        expected = np.trace(within) / np.trace(between)
        assert found[place].item() == pytest.approx(expected, rel=1e-10)


def test_features_are_what_the_last_linear_layer_is_given():
    runs, moment = caught([{**TINY, "data": "digits", "loss": "brier", "seed": s} for s in (0, 1)])
    found = moment.features(moment.parameters)
    for place, run in enumerate(runs):
        model = initial_model(run, splits_of(run), seed=run.seed).double()
        model.load_state_dict({name: value[place] for name, value in moment.parameters.items()})
        torch.testing.assert_close(found[place], model[:-1](moment.inputs[place]).detach())
    norm = MEASURES["representation"](moment)["output_norm"]
    torch.testing.assert_close(norm, moment.output.norm(dim=-1).mean(-1))


def test_regression_has_no_class_scatter():
    _, moment = caught([TINY])
    assert MEASURES["representation"](moment)["class_scatter"].isnan().all()


class Unvectorised(nn.Module):
    """Looks at its numbers, which vmap forbids."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.last = nn.Linear(inputs, outputs)

    def forward(self, inputs):
        return self.last(inputs * (2.0 if bool(inputs.sum() > 1e9) else 1.0))


def test_a_model_that_cannot_be_vectorised_is_measured_all_the_same(monkeypatch):
    def odd(inputs: int, outputs: int) -> nn.Module:
        return Unvectorised(inputs, outputs)

    monkeypatch.setitem(MODELS, "odd", Model(odd, "this test"))
    settings = {"data": "digits", "loss": "brier", "steps": 2, "instruments": EVERY}
    plain = {"model__name": "linear", "model__fn": "linear", "model__params": {}}
    found = []
    for model in (plain, {**plain, "model__name": "odd", "model__fn": "odd"}):
        evals = trained([make_run(**settings, **model)])["evals"]
        found.append(of_instruments(evals).set_index(["metric", "step"]).value)
    pd.testing.assert_series_equal(*found, rtol=1e-4)


# ---- the table -----------------------------------------------------------------------------------


def of_instruments(evals):
    known = {name for one in INSTRUMENTS.values() for name in one.metrics}
    return evals[evals.metric.isin(known) | evals.metric.str.startswith(records.AGREEMENT)]


def test_every_instrument_of_the_table_has_its_function_and_writes_what_it_declares():
    assert [*MEASURES] == [*INSTRUMENTS]
    _, moment = caught([{**TINY, **NOISY, "loss": "brier"}])
    for name, one in INSTRUMENTS.items():
        found = MEASURES[name](moment)
        declared = {*one.metrics} or {f"agreement:{other}" for other in CORE["classification"]}
        assert {*found} | {"agreement:brier"} == declared | {"agreement:brier"}
        assert all(value.shape == moment.loss[:, 0].shape for value in found.values())


def test_metrics_of_instruments_are_known_and_have_a_direction_or_none():
    for one in INSTRUMENTS.values():
        for name, metric in one.metrics.items():
            assert records.metric_of(name) is metric
            assert metric.direction in ("lower", "")
            assert name not in records.METRICS
    assert records.direction("agreement:brier") == ""
    assert records.direction("loss_quantile_50") == "lower"


def test_losses_are_compared_with_losses_of_their_task():
    for task, names in CORE.items():
        assert {LOSSES[name].task for name in names} == {task}
        assert len({LOSSES[name].link() for name in names}) == 1


# ---- the schedule --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INSTRUMENTS)
@pytest.mark.parametrize("eval_every", [1, 7, 100])
def test_an_instrument_costs_five_percent_or_less_between_its_ends(name, eval_every):
    every = interval(name, eval_every=eval_every)
    assert every % eval_every == 0
    assert INSTRUMENTS[name].cost / every <= 0.05
    assert every == eval_every or INSTRUMENTS[name].cost / (every - eval_every) > 0.05
    steps = 10 * every + 1
    at = [step for step in range(steps) if due(name, step, steps=steps, eval_every=eval_every)]
    assert at == [*range(0, steps, every)]
    assert times(name, steps=every // 2 + 2, eval_every=eval_every) == 2


def test_what_is_measured_stands_at_its_steps_in_split_train():
    run = make_run(steps=301, eval_every=100, instruments=["loss_quantiles", "curvature"])
    found = of_instruments(trained([run])["evals"])
    assert set(found.split) == {"train"}
    steps = found.groupby("metric").step.agg(list)
    assert steps["curvature_top"] == [0, 300]
    assert steps["loss_quantile_50"] == [0, 100, 200, 300]


# ---- what instruments may not do -----------------------------------------------------------------

MANY = {
    "diabetes": ["mse", "mae", "quartic", "gaussian_nll"],
    "digits": ["cross_entropy", "brier", "mse_logits", "class_balanced", "sparsemax"],
}


def trained_with(instruments, losses, data):
    """Tables without what instruments measure, and the parameters after every step but the last."""
    shared = {"data": data, "log_every": 1, "instruments": instruments}
    (pack,) = packs.group([make_run(loss=loss, **shared) for loss in losses], pack_size=100)
    saved, before = [], torch.get_rng_state()
    tables = trained(pack.runs, flush=lambda step, snapshot: saved.append(snapshot()))
    assert torch.equal(before, torch.get_rng_state())
    tables["evals"] = tables["evals"].drop(of_instruments(tables["evals"]).index)
    keys = ("loss", "step", "layer", "split", "metric")
    for name, frame in tables.items():
        frame = frame.drop(columns=["run_id", "config", *VOLATILE], errors="ignore")
        by = [key for key in keys if key in frame]
        tables[name] = frame.sort_values(by).reset_index(drop=True)
    states = [decoded(one.checkpoint, device=CPU)["state"]["parameters"] for one in saved]
    return tables, states


@pytest.mark.parametrize("data", MANY)
def test_training_is_the_same_bit_for_bit_with_all_instruments_and_without(data):
    losses = [loss for loss in MANY[data] if LOSSES[loss].outputs_per_target == 1]
    (plain, before), (measured, after) = (trained_with(one, losses, data) for one in ([], EVERY))
    assert_same_records(plain, measured)
    for one, other in zip(before, after, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("data", "loss", "others"),
    [
        ("diabetes", "log_cosh", ("mse", "huber")),
        ("digits", "cross_entropy", ("brier", "mse_logits")),
        ("digits", "class_balanced", ("brier", "mse_logits")),
    ],
)
def test_what_is_measured_of_a_member_has_the_same_bits_in_any_pack_and_place(data, loss, others):
    noise = NOISY if data == "digits" else {"data": data}
    # Odd sizes: no vector ends where a member ends.
    shape = {"batch_size": 7, "model__params": {"widths": [5], "activation": "tanh"}}
    shared = {**noise, **shape, "steps": 6, "eval_every": 3, "instruments": EVERY}
    run = make_run(loss=loss, seed=3, **shared)
    mates = [
        make_run(loss=other, seed=seed, optimizer__momentum=0.5, **shared)
        for other, seed in itertools.product(others, range(6))
    ]
    alone = records_of(trained([run]), run)
    assert len(of_instruments(alone["evals"])) > 20
    for runs in ([run, *mates[:1]], [*mates[:3], run], [*mates, run]):
        assert_same_records(alone, records_of(trained(runs), run))


@pytest.mark.parametrize("loss", ["log_cosh", "welsch", "linex", "cauchy"])
def test_the_mean_loss_of_a_member_has_the_same_bits_whoever_has_its_loss(loss):
    shape = {
        "engine__precision": "float32",
        "batch_size": 7,
        "steps": 1,
        "model__params": {"widths": [5], "activation": "tanh"},
    }
    each = [{**shape, "loss": loss, "seed": seed} for seed in range(12)]
    other = {**shape, "loss": "mse", "seed": 0}
    everyone, together = caught([*each, other], step=0)
    expected = together.mean_loss(together.parameters)
    for one in each:
        runs, moment = caught([one, other], step=0)
        (own,) = (place for place, run in enumerate(runs) if run.loss.name == loss)
        place = [run.run_id for run in everyone].index(runs[own].run_id)
        assert torch.equal(moment.mean_loss(moment.parameters)[own], expected[place])


def breaks_twice(output, target):
    return _Once.apply(output - target).sum(-1)


class _Once(torch.autograd.Function):
    """A square that can be differentiated once."""

    @staticmethod
    def forward(ctx, error):
        ctx.save_for_backward(error)
        return error.square()

    @staticmethod
    def backward(ctx, slope):
        if torch.is_grad_enabled():
            raise RuntimeError("no second derivative")
        return 2.0 * slope * ctx.saved_tensors[0]


def test_a_loss_that_raises_in_an_instrument_is_nan_there_and_nowhere_else(monkeypatch):
    row = Loss(breaks_twice, "identity", "mine", "regression", "e²", frozenset(), "this test")
    monkeypatch.setitem(LOSSES, "breaks_twice", row)
    shared = {"steps": 6, "eval_every": 3, "instruments": EVERY}
    broken, good = (make_run(loss=loss, **shared) for loss in ("breaks_twice", "mse"))
    together, alone = grouped([broken, good]), trained([good])
    assert set(together["runs"].status) == {"done"}
    assert_same_records(records_of(alone, good), records_of(together, good))
    of_broken = {*of_instruments(records_of(together, broken)["evals"]).metric}
    assert "loss_quantile_50" in of_broken
    assert not of_broken & {"curvature_top", "curvature_trace", "step_curvature"}


def test_a_pack_that_goes_on_from_a_checkpoint_measures_the_same():
    run = make_run(steps=9, eval_every=2, instruments=EVERY)
    splits, kept = {run.seed: splits_of(run)}, []
    go = partial(train, packs.Pack("pack", (run,)), splits, Machine(CPU))
    whole = go(flush=lambda step, snapshot: kept.append(snapshot()) if step == 5 else None)
    rest = go(saved=kept[0])
    for name in ("steps", "evals"):
        pd.testing.assert_frame_equal(whole[name].to_pandas(), rest[name].to_pandas())
    assert len(of_instruments(whole["evals"].to_pandas()))


def test_a_metric_of_an_instrument_does_not_choose_the_best_step():
    plain, seen = (
        trained([make_run(steps=6, eval_every=2, instruments=names)])["runs"].best_step.item()
        for names in ([], EVERY)
    )
    assert plain == seen


def test_features_of_a_model_without_a_linear_layer_are_none():
    members = members_of([make_run(data="digits", loss="brier")])
    assert moments.features_of(members) is not None
    assert moments.features_of(dataclasses.replace(members, model=nn.Flatten())) is None
