"""From a configuration to a run: checks with cures, identity."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import pytest
import torch
from configs import make_run, plain_config, set_key, to_run
from torch import Tensor

from lossbench import question
from lossbench.ask import named, to_engine
from lossbench.ask.compose import run_of
from lossbench.losses import LOSSES
from lossbench.question import PRECISIONS, ConfigError, code, fits, vary
from lossbench.question.schema import GROUPS
from lossbench.sweep import preflight


def test_a_plain_configuration_becomes_its_run():
    run = make_run(seed=3, loss="huber", loss__params={"delta": 0.5}, optimizer__lr=0.2)
    assert (run.seed, run.lr, run.steps, run.momentum) == (3, 0.2, 20, 0.9)
    assert run.loss == question.Part(name="huber", fn="huber", params={"delta": 0.5})
    assert run.row is LOSSES["huber"]
    assert json.loads(json.dumps(run.facts)) == run.facts


def test_the_name_of_a_variant_and_its_function_are_kept_apart():
    run = make_run(loss={"name": "huber_tight", "fn": "huber", "params": {"delta": 0.1}})
    assert (run.loss.name, run.loss.fn, run.row.name) == ("huber_tight", "huber", "huber")


# ---- mistakes ------------------------------------------------------------------------------------

MISTAKES = {
    "optimizer__lr": [
        (0.0, "optimizer.lr is 0.0: use a positive number"),
        (-1.0, "optimizer.lr is -1.0: use a positive"),
        (float("nan"), "optimizer.lr is nan: use a positive"),
        (float("inf"), "optimizer.lr is inf: use a positive"),
    ],
    "optimizer__momentum": [
        (1.0, "optimizer.momentum is 1.0: use 0 up to below 1"),
        (-0.1, "optimizer.momentum is -0.1"),
        (float("nan"), "optimizer.momentum is nan"),
    ],
    "optimizer__weight_decay": [
        (-1.0, "optimizer.weight_decay is -1.0: use 0 or more"),
        (float("inf"), "optimizer.weight_decay is inf"),
    ],
    "steps": [(0, "steps is 0: use a positive"), (-3, "steps is -3")],
    "batch_size": [(0, "batch_size is 0: use a positive")],
    "log_every": [(0, "log_every is 0: use a positive")],
    "eval_every": [(-1, "eval_every is -1: use a positive")],
    "seed": [(-1, "seed is -1: use 0 or more")],
    "engine__device": [("gpu", "engine.device 'gpu' is unknown: did you mean 'cpu'")],
    "engine__precision": [("float16", "'float16' is unknown: did you mean 'float64'")],
    "engine__pack_size": [(0, "engine.pack_size is 0: use a positive")],
    "engine__threads": [(0, "engine.threads is 0: use a positive")],
    "init__output_scale": [
        (float("nan"), "init.output_scale is nan: use a number"),
        ("abc", "init.output_scale is 'abc': use a number"),
        (True, "init.output_scale is True: use a number"),
    ],
    "init__from": [
        ("permuted_label", "init.from 'permuted_label' is unknown: did you mean 'permuted_labels'"),
        (3, "init.from '3' is unknown: use one of permuted_labels, pretrained, random"),
        ("permuted_labels", "'diabetes' is regression, .*: use init.from=random"),
    ],
    "data__targets": [
        ("sample", "data.targets 'sample' is unknown: did you mean 'sampled'"),
        ("distribution", "'diabetes' is regression, .*: use data.targets=sampled"),
    ],
    "name": [
        ("../x", "name is '../x': use up to 80 letters"),
        ("a/b", "name is 'a/b'"),
        ("", "name is ''"),
        (".hidden", "name is '.hidden'"),
        ("x\n", "name is 'x"),
        (81 * "x", "use up to 80 letters"),
    ],
    "loss": [
        ("huberr", "'huberr' is unknown: did you mean 'huber'"),
        ("cross_entropy", "'cross_entropy' is for classification, data 'diabetes' is regression"),
        ("../x", "loss name '../x': use"),
    ],
    "data": [
        ("diabetis", "'diabetis' is unknown: did you mean 'diabetes'"),
        ("digits", "'mse' is for regression, data 'digits' is classification: use one of"),
    ],
    "model": [("mlpp", "'mlpp' is unknown: did you mean 'mlp'")],
    "optimizer": [("sgdd", "optimizer 'sgdd' is unknown: did you mean 'sgd'")],
    "schedule": [("cosin", "schedule 'cosin' is unknown: did you mean 'cosine'")],
    "loss__params": [({"delta": 1.0}, "loss.params of mse: 'delta' is unknown: there is none")],
    "model__params": [
        ({"width": [3]}, "'width' is unknown: did you mean 'widths'"),
        ({"widths": 3}, r"model.params.widths is 3: use a value like its default, \(64, 64\)"),
        ({"widths": [3, "a"]}, "model.params.widths is 'a': use a value like"),
        ({"widths": [True]}, "model.params.widths is True: use a value like"),
        ({"activation": 3}, "model.params.activation is 3: use a value like its default, 'relu'"),
    ],
    "data__corruption": [
        ({"name": "symetric", "params": {}}, "'symetric' is unknown: did you mean 'symmetric'"),
        ({"name": "none", "params": {"rate": 0.1}}, "'rate' is unknown"),
    ],
}


@pytest.mark.parametrize(
    ("key", "value", "message"), [(key, *case) for key, cases in MISTAKES.items() for case in cases]
)
def test_a_mistake_is_refused_with_its_value_and_the_cure_in_one_line(key, value, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make_run(**{key: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("delta", "message"),
    [("abc", "use a value like its default, 1.0"), (float("nan"), "delta is nan"), (True, "True")],
)
def test_a_parameter_of_another_type_is_refused_before_training(delta, message):
    with pytest.raises(ConfigError, match=message):
        make_run(loss="huber", loss__params={"delta": delta})


def test_an_unknown_key_of_a_plain_dictionary_is_refused_with_the_nearest():
    plain = plain_config()
    set_key(plain, "init.form", "random")
    with pytest.raises(ConfigError, match=r"unknown key 'init.form': did you mean 'init.from'"):
        to_run(plain)


def test_distribution_targets_and_a_corruption_are_refused_together():
    noise = {"name": "symmetric", "params": {}}
    with pytest.raises(ConfigError, match=r"no label to corrupt, use data\.corruption\.name=none"):
        make_run(
            data="gaussian_mixture",
            loss="brier",
            data__targets="distribution",
            data__corruption=noise,
        )


def test_distribution_targets_of_data_without_a_posterior_are_refused_before_training():
    run = make_run(data="digits", loss="brier", data__targets="distribution")
    with pytest.raises(ConfigError, match=r"data digits.*not known: use data\.targets=sampled"):
        preflight([run])


def test_a_part_named_otherwise_than_its_yaml_is_refused():
    from omegaconf import OmegaConf

    node = OmegaConf.create({group: {"name": "other"} for group in GROUPS})
    with pytest.raises(ConfigError, match=r"data.name is 'other': choose with data=other"):
        named(node, dict.fromkeys(GROUPS, "chosen"))


def test_a_device_this_machine_lacks_is_refused_with_the_cure(monkeypatch):
    # Whatever this machine has.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no CUDA device here, use engine=cpu"):
        to_engine(plain_config(engine__device="cuda"))


@pytest.mark.parametrize(("is_there", "device"), [(True, "cuda"), (False, "cpu")])
def test_the_device_auto_is_what_there_is(monkeypatch, is_there, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: is_there)
    assert to_engine(plain_config(engine__device="auto")).device == device


def test_tf32_is_refused_where_there_is_none_and_is_a_run_of_its_own(monkeypatch):
    with pytest.raises(ConfigError, match="tf32, which a CPU does not have: use float32"):
        to_engine(plain_config(engine__precision="tf32", engine__device="auto"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    to_engine(plain_config(engine__precision="tf32", engine__device="auto"))
    ids = {to_run(plain_config(engine__precision=one)).run_id for one in PRECISIONS}
    assert len(ids) == len(PRECISIONS)


def test_engine_settings_are_checked_too():
    with pytest.raises(ConfigError, match=r"engine\.threads is 0"):
        to_engine(plain_config(engine__threads=0))
    assert to_engine(plain_config()) == question.Engine(
        device="cpu", pack_size=128, threads=1, commit_every=30
    )


def test_the_engine_carries_where_data_lie():
    engine = to_engine(plain_config(data__root="elsewhere", data__download=True))
    assert (engine.data_root, engine.download) == ("elsewhere", True)


# ---- identity ------------------------------------------------------------------------------------

FACTORS = {
    "data": "noisy_linear",
    "model": "linear",
    "loss": "mae",
    "optimizer": "adam",
    "schedule": "cosine",
    "optimizer__lr": 0.051,
    "optimizer__momentum": 0.8,
    "optimizer__weight_decay": 1e-9,
    "init__output_scale": 0.99,
    "seed": 1,
    "steps": 21,
    "batch_size": 33,
    "log_every": 6,
    "eval_every": 11,
    "engine__precision": "float64",
    "model__params": {"widths": [16], "activation": "relu"},
}
CLASSIFIED = {"data": "gaussian_mixture", "loss": "brier"}
OF_LABELS = {
    "data__targets": "distribution",
    "init__from": "permuted_labels",
    "data__corruption": {"name": "symmetric", "params": {}},
}
NO_FACTORS = {
    "name": "another",
    "engine__name": "another",
    "engine__pack_size": 3,
    "engine__threads": 2,
    "engine__device": "cuda",
    "extensions": ["json"],
    "data__root": "elsewhere",
    "data__download": True,
}


def test_a_run_id_is_16_hex_digits_and_the_same_twice():
    assert make_run().run_id == make_run().run_id
    assert len(make_run().run_id) == 16
    assert int(make_run().run_id, 16) >= 0


@pytest.mark.parametrize(
    ("facts", "change"),
    [
        *(pytest.param({}, {key: FACTORS[key]}, id=key) for key in FACTORS),
        *(pytest.param(CLASSIFIED, {key: OF_LABELS[key]}, id=key) for key in OF_LABELS),
    ],
)
def test_a_run_id_changes_with_every_factor(facts, change):
    assert make_run(**(facts | change)).run_id != make_run(**facts).run_id


def test_factors_that_came_later_leave_the_ids_of_older_runs_as_they_were():
    half = make_run(init__output_scale=0.5)
    facts = half.facts
    assert facts["targets"] == "sampled"
    assert facts["init"] == {"from": "random", "output_scale": 0.5}
    later = ("targets", "corruption", "augmentation", "signal", "instruments")
    older = {name: value for name, value in facts.items() if name not in later}
    text = json.dumps({"engine": question.run.ENGINE_SCHEMA, **older}, sort_keys=True)
    assert half.run_id == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert "init" not in question.run.without_neutral(make_run().facts)


@pytest.mark.parametrize("key", ["data__targets", "init__from"])
def test_code_that_a_run_does_not_use_does_not_count_for_it(key):
    plain, other = make_run(**CLASSIFIED), make_run(**CLASSIFIED, **{key: OF_LABELS[key]})
    assert other.source_sha != plain.source_sha
    assert other.shared_sha != plain.shared_sha


@pytest.mark.parametrize("key", NO_FACTORS)
def test_a_run_id_does_not_depend_on_where_and_how_fast_it_runs(key):
    assert make_run(**{key: NO_FACTORS[key]}).run_id == make_run().run_id


def test_every_fact_of_a_run_is_a_factor_of_its_id():
    one = make_run()
    for name in one.facts:
        value = question.run.Init("another") if name == "init" else "another"
        assert dataclasses.replace(one, **{name: value}).run_id != one.run_id


def test_one_and_one_point_zero_are_the_same_run():
    one, point = (
        make_run(loss="huber", loss__params={"delta": delta}, optimizer__lr=lr)
        for delta, lr in ((1, 1.0), (1.0, 1.0))
    )
    assert one.run_id == point.run_id
    assert type(one.loss.params["delta"]) is float


@pytest.mark.parametrize("value", [1, 1.0])
def test_a_float_whose_signature_says_one_takes_whole_and_broken_numbers(value):
    def fn(*, power: float = 1, count: int = 1):
        return power, count

    assert vary.parameters(fn) == {"power": 1.0, "count": 1}
    assert type(vary.in_type_of(vary.parameters(fn)["power"], value, "power")) is float
    with pytest.raises(ConfigError, match=r"count is 1\.5"):
        vary.in_type_of(vary.parameters(fn)["count"], 1.5, "count")


def test_a_run_id_does_not_depend_on_the_order_of_keys():
    plain = dict(reversed(plain_config().items()))
    plain["model"] = {**plain["model"], "params": {"activation": "relu", "widths": [16, 16]}}
    assert to_run(plain).run_id == make_run().run_id


def test_a_run_id_depends_on_the_engines_schema_number(monkeypatch):
    before = make_run().run_id
    # As if the number in the code were raised.
    monkeypatch.setattr(question.run, "ENGINE_SCHEMA", question.run.ENGINE_SCHEMA + 1)
    assert make_run().run_id != before


def mse(output: Tensor, target: Tensor) -> Tensor:
    return 0.51 * (output - target).square().sum(-1)


def test_an_edited_loss_is_another_run(monkeypatch):
    before = make_run()
    monkeypatch.setitem(LOSSES, "mse", dataclasses.replace(LOSSES["mse"], fn=mse))
    code._code_shas.cache_clear()
    try:
        assert make_run().run_id != before.run_id
    finally:
        code._code_shas.cache_clear()


@pytest.mark.parametrize(
    ("loss", "data", "does_fit"),
    [
        ("mse", "diabetes", True),
        ("brier", "digits", True),
        ("brier", "diabetes", False),
        ("mse", "digits", False),
        ("poisson_nll", "noisy_counts", True),
        ("mse", "noisy_counts", True),
        ("poisson_nll", "diabetes", False),
    ],
)
def test_a_loss_fits_data_of_its_task_and_domain(loss, data, does_fit):
    assert fits(run_of(plain_config(loss=loss, data=data))) == does_fit


def test_a_loss_for_counts_says_which_data_it_fits():
    with pytest.raises(ConfigError, match=r"nonnegative targets.*use data=noisy_counts"):
        to_run(plain_config(loss="poisson_nll", data="diabetes"))


def test_runs_of_code_that_was_edited_since_are_refused_by_name():
    run = to_run(plain_config(loss="huber"))
    code.refuse_other_code([run])
    other = dataclasses.replace(run, source_sha="0" * 64)
    with pytest.raises(ConfigError, match=r"code of loss huber.*give the command again"):
        code.refuse_other_code([run, other])
