"""A start that is confidently wrong, the same for every loss and pack."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from configs import make_run
from training import assert_same_records, records_of, trained

from lossbench.engine.members import initial_model
from lossbench.fingerprints import tensors_sha
from lossbench.models import start as model_start
from lossbench.models.start import derangement
from lossbench.question import code
from lossbench.sweep import splits_of

LINEAR = {"name": "linear", "fn": "linear", "params": {}}
WRONG = {"init__from": "permuted_labels", "steps": 4, "eval_every": 2, "batch_size": 16}


def start(**overrides):
    run = make_run(**{"data": "digits", "loss": "brier", **WRONG, **overrides})
    splits = splits_of(run)
    return initial_model(run, splits, seed=run.seed), splits, run


@pytest.mark.parametrize("model", ["mlp", LINEAR], ids=["mlp", "linear"])
@pytest.mark.parametrize("data", ["digits", "gaussian_mixture"])
def test_a_model_fitted_to_permuted_labels_is_confidently_wrong(data, model):
    fitted, splits, _ = start(data=data, model=model)
    with torch.no_grad():
        p = fitted(splits.inputs["train"]).softmax(-1)
    label = splits.targets["train"].argmax(-1)
    assert (p.argmax(-1) == label).double().mean() < 0.1 / p.shape[-1]
    assert p.amax(-1).mean() > 0.8
    assert p.gather(-1, label[:, None]).mean() < 0.05


def test_dense_targets_are_permuted_too():
    sampled, dense = (
        start(data="gaussian_mixture", data__targets=targets)
        for targets in ("sampled", "distribution")
    )
    for fitted, splits, _ in (sampled, dense):
        with torch.no_grad():
            chosen = fitted(splits.inputs["train"]).argmax(-1)
        right = splits.posterior["train"].gather(-1, chosen[:, None]).mean()
        assert right < 0.05
    shas = {tensors_sha(fitted.state_dict()) for fitted, *_ in (sampled, dense)}
    assert len(shas) == 2


def test_every_loss_and_pack_starts_from_the_same_state_and_another_seed_from_another():
    runs = [
        make_run(data="digits", loss=loss, seed=seed, optimizer__lr=lr, **WRONG)
        for loss, lr in (("cross_entropy", 0.1), ("mae_probs", 3.0), ("mse_logits", 0.01))
        for seed in (0, 1)
    ]
    together = trained(sorted(runs, key=lambda run: run.loss.name))
    frame = together["runs"]
    assert frame.groupby("seed").init_sha.nunique().to_list() == [1, 1]
    assert frame.init_sha.nunique() == 2
    plain = make_run(data="digits", loss="mse_logits", seed=0, steps=4, batch_size=16)
    assert trained([plain])["runs"].init_sha[0] not in set(frame.init_sha)
    for run in runs:
        assert_same_records(records_of(trained([run]), run), records_of(together, run))
    evals = together["evals"].query("step == 0 and split == 'train' and metric == 'accuracy'")
    assert (evals.value < 0.01).all()


def test_other_optimizers_and_batches_start_from_the_same_state():
    shas = {
        tensors_sha(start(**overrides)[0].state_dict())
        for overrides in ({}, {"optimizer": "adam"}, {"batch_size": 7}, {"steps": 9})
    }
    assert len(shas) == 1


def test_the_output_scale_applies_after_the_fit():
    (plain, _, _), (half, _, _) = start(), start(init__output_scale=0.5)
    before, after = plain.state_dict(), half.state_dict()
    *rest, weight, bias = before
    assert all(torch.equal(before[name], after[name]) for name in rest)
    assert all(torch.equal(0.5 * before[name], after[name]) for name in (weight, bias))


@pytest.mark.parametrize("count", [2, 3, 10])
def test_a_derangement_is_a_permutation_that_leaves_nothing_in_its_place(count):
    for seed in range(50):
        order = derangement(count, seed=seed)
        assert order.sort().values.equal(torch.arange(count))
        assert not (order == torch.arange(count)).any()


def test_all_nine_derangements_of_four_are_equally_likely():
    drawn = Counter(tuple(derangement(4, seed=seed).tolist()) for seed in range(1800))
    assert len(drawn) == 9
    assert all(130 < count < 275 for count in drawn.values())  # 200 expected, 5 deviations


def test_the_recipe_counts_for_the_identity_of_those_runs_alone_that_use_it(monkeypatch):
    def both():
        code._code_shas.cache_clear()
        plain = make_run(data="digits", loss="brier")
        return plain, start()[2]

    before = both()
    # As if the recipe in the code were edited.
    monkeypatch.setattr(model_start, "UPDATES", model_start.UPDATES + 1)
    try:
        after = both()
    finally:
        monkeypatch.undo()
        code._code_shas.cache_clear()
    assert after[0] == before[0]
    for fact in ("run_id", "source_sha", "shared_sha"):
        assert getattr(after[1], fact) != getattr(before[1], fact)
