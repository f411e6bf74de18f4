"""Error signals with the scale or the weighting alone, against plain loops over one model."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from configs import make_run
from training import records_of, trained

from lossbench.engine import batch_indices
from lossbench.losses import LOSSES
from lossbench.models import MODELS, initialised
from lossbench.question import ConfigError
from lossbench.records import REFERENCE, SIGNALS
from lossbench.sweep import splits_of

DIGITS = {"data": "digits", "steps": 12, "log_every": 1, "eval_every": 12}
PRECISE = {"engine__precision": "float64", "optimizer__momentum": 0.0}


def slope_of(loss, output, target):
    leaf = output.detach().requires_grad_()
    return torch.autograd.grad(loss(leaf, target).sum(), leaf)[0]


def length(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors]).norm()


def by_hand(run):
    """Gradient norms of SGD without momentum whose signal is made as the table says."""
    splits = splits_of(run)
    inputs, targets = (part["train"].double() for part in (splits.inputs, splits.targets))
    build = partial(MODELS[run.model.fn].fn, *splits.sizes, **run.model.params)
    model = initialised(build, seed=run.seed).double()
    parameters = [*model.parameters()]
    reference = LOSSES[REFERENCE[run.row.task]].fn
    norms = []
    for rows in batch_indices(run.seed, len(inputs), run.steps, run.batch_size):
        output = model(inputs[rows])
        own = slope_of(run.row.fn, output, targets[rows])
        theirs = slope_of(reference, output, targets[rows])

        def gradient(slope, output=output):
            return torch.autograd.grad(output, parameters, slope / len(slope), retain_graph=True)

        if run.signal == "norm_matched":
            factor = length(gradient(theirs)) / length(gradient(own))
            slopes = [factor * one for one in gradient(own)]
        else:
            weights = own.norm(dim=-1) / theirs.norm(dim=-1)
            slopes = gradient(theirs * (weights / weights.mean())[:, None])
        with torch.no_grad():
            for parameter, one in zip(parameters, slopes, strict=True):
                parameter -= run.lr * one
        norms.append(float(length(slopes)))
    return norms


@pytest.mark.parametrize("signal", ["norm_matched", "reweighted"])
@pytest.mark.parametrize(
    ("data", "losses"),
    [("digits", ["brier", "mae_probs", "mse_logits"]), ("diabetes", ["quartic", "huber"])],
)
def test_a_signal_drives_a_pack_as_it_drives_one_model_by_hand(signal, data, losses):
    facts = {**DIGITS, **PRECISE, "data": data, "signal": signal, "optimizer__lr": 0.05}
    runs = [make_run(**facts, loss=loss, seed=seed) for loss in losses for seed in (0, 1)]
    tables = trained(sorted(runs, key=lambda run: (run.loss.name, run.seed)))
    for run in runs:
        found = records_of(tables, run)["steps"].gradient_norm
        np.testing.assert_allclose(found, by_hand(run), rtol=1e-5)


@pytest.mark.parametrize("signal", ["norm_matched", "reweighted"])
def test_the_reference_is_driven_by_its_own_error_in_all_of_them(signal):
    facts = {**DIGITS, **PRECISE, "loss": "cross_entropy"}
    own = trained([make_run(**facts)])["steps"]
    other = trained([make_run(**facts, signal=signal)])["steps"]
    assert own.gradient_norm.nunique() > 5
    np.testing.assert_allclose(other.gradient_norm, own.gradient_norm, rtol=1e-6)


def test_a_member_with_another_signal_depends_on_no_pack_mate():
    runs = [make_run(**DIGITS, loss="brier", signal="norm_matched", seed=s) for s in range(3)]
    together = trained(runs)
    for run in runs:
        alone = records_of(trained([run]), run)
        for name, frame in records_of(together, run).items():
            assert frame.equals(alone[name])


def test_every_signal_is_told_and_another_one_is_refused():
    assert {*SIGNALS} == {"own", "norm_matched", "reweighted"}
    with pytest.raises(ConfigError, match="norm_match"):
        make_run(signal="norm_match")
    with pytest.raises(ConfigError, match="more outputs than the reference"):
        make_run(loss="gaussian_nll", signal="reweighted")
    assert (
        make_run(signal="own").run_id == make_run().run_id != make_run(signal="reweighted").run_id
    )
