"""Sequences train and are judged as other tasks are, a position as an example is there."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from configs import make_run
from scipy import stats
from selection import beyond
from torch.nn import functional
from training import assert_same_records, grouped, records_of, targets_of, trained

from lossbench.data import DATA
from lossbench.data.corruption import corrupted
from lossbench.engine.batches import batch_indices
from lossbench.engine.members import initial_model
from lossbench.losses import LOSSES
from lossbench.models import MODELS, Model
from lossbench.models.start import derangement
from lossbench.question import ConfigError
from lossbench.sweep import preflight, splits_of

SMALL = {"examples": 60, "held_out": 24, "window": 5, "vocabulary": 6, "branches": 3}
TINY_GPT = {"width": 8, "depth": 1, "heads": 2}
FACTS = {"data": "markov_text", "data__params": SMALL, "steps": 6, "batch_size": 12}
FACTS |= {"log_every": 2, "eval_every": 6, "optimizer__lr": 0.3, "engine__precision": "float64"}
LOSS_NAMES = ("cross_entropy", "brier", "mse_logits")


def runs_of(model="bigram", losses=LOSS_NAMES, **more):
    params = TINY_GPT if model == "gpt" else {}
    facts = {**FACTS, "model": model, "model__params": params, **more}
    return [make_run(**facts, loss=loss, seed=seed) for loss in losses for seed in (0, 1)]


def by_hand(run, *, stop=None):
    """A table of next tokens as numpy would train it, and its outputs on test, [N, T, C]."""
    splits = splits_of(run)
    table = initial_model(run, splits, seed=run.seed).double()[1].weight.T.detach().clone()
    inputs, targets = splits.inputs["train"], targets_of(splits, "train", torch.float64)
    velocity = torch.zeros_like(table)
    for rows in batch_indices(run.seed, len(inputs), run.steps, run.batch_size)[:stop]:
        table.requires_grad_()
        total = run.row.values(table[inputs[rows]], targets[rows], run.loss.params, None).sum()
        gradient = torch.autograd.grad(total, table)[0] / inputs[rows].numel()
        velocity = run.momentum * velocity + gradient
        table = table.detach() - run.lr * velocity
    return table[splits.inputs["test"]]


def last_of(tables, run, split="test"):
    evals = records_of(tables, run)["evals"]
    last = evals[(evals.step == run.steps) & (evals.split == split)]
    return last.set_index("metric").value


def test_metrics_and_the_losses_of_others_are_means_over_windows_and_positions():
    runs = runs_of()
    tables = grouped(runs)
    for run in runs:
        found, output = last_of(tables, run), by_hand(run)
        splits = splits_of(run)
        label, posterior = splits.targets["test"], splits.posterior["test"].double()
        hits = output.argmax(-1) == label
        assert found["accuracy"] == pytest.approx(hits.double().mean().item())
        entropy = stats.entropy(posterior.numpy(), axis=-1).mean()
        assert found["entropy_floor"] == pytest.approx(entropy, rel=1e-6)
        target = functional.one_hot(label, 6).double()
        for name in LOSS_NAMES:
            if LOSSES[name].link() == run.row.link():
                mean = LOSSES[name].fn(output, target).mean().item()
                assert found[f"loss:{name}"] == pytest.approx(mean, rel=1e-6)
            else:
                assert f"loss:{name}" not in found
        if run.loss.name == "cross_entropy":
            logs = output.log_softmax(-1)
            right = logs.gather(-1, label[..., None])
            assert found["nll_raw"] == pytest.approx(-right.mean().item(), rel=1e-6)
            away = 0.5 * (logs.exp() - posterior).abs().sum(-1).mean().item()
            assert found["tv_posterior"] == pytest.approx(away, rel=1e-6)


def test_the_recalibrated_prediction_is_as_far_from_the_truth_as_its_likelihood_says():
    # Over labels drawn from the posterior the expected nll is the entropy plus the divergence.
    sizes = {**SMALL, "held_out": 4000}
    (run, *_) = runs_of(losses=["cross_entropy"], data__params=sizes)
    found = last_of(grouped([run]), run)
    assert found["nll"] == pytest.approx(found["entropy_floor"] + found["kl"], abs=0.03)
    assert found["kl"] > 0.1


def test_a_window_of_test_contributes_the_share_of_its_positions_that_are_hit():
    sizes = {"examples": 60, "held_out": 24, "window": 5}
    runs = runs_of(data="python_source", data__params=sizes)
    tables = grouped(runs)
    for run in runs:
        found = records_of(tables, run)["examples"]
        hits = (by_hand(run).argmax(-1) == splits_of(run).targets["test"]).double().mean(-1)
        assert found.example.tolist() == [*range(24)]
        np.testing.assert_allclose(found.value, hits, atol=1e-7)
        assert found.value.mean() == pytest.approx(last_of(tables, run)["accuracy"])
    assert_same_records(records_of(tables, runs[0]), records_of(trained(runs[:1]), runs[0]))


@pytest.mark.parametrize("name", ["symmetric", "pairflip", "instance"])
def test_label_noise_flips_positions_and_nothing_of_test(name):
    noise = {"name": name, "params": {"rate": 0.3}}
    sizes = {**SMALL, "examples": 2000, "held_out": 400}
    (run, *_) = runs_of(losses=["brier"], data__params=sizes, data__corruption=noise)
    splits = splits_of(run)
    for split in ("train", "validation"):
        flipped = splits.targets[split] != splits.clean[split]
        assert flipped.double().mean().item() == pytest.approx(0.3, abs=0.06)
        assert splits.targets[split].shape == splits.inputs[split].shape
    assert splits.targets["test"] is splits.clean["test"]
    tables = grouped([run])
    facts = tables["runs"].iloc[0]
    is_wrong = splits.targets["train"] != splits.clean["train"]
    assert facts.corrupted_share == pytest.approx(is_wrong.double().mean().item())
    rows = np.array(json.loads(facts.transition))
    np.testing.assert_allclose(rows.sum(1), 1.0, atol=1e-5)
    assert np.diag(rows).mean() == pytest.approx(0.7, abs=0.06)
    found = last_of(tables, run, "train")
    assert 0 <= found["memorised"] + found["recovered"] <= 1
    assert "accuracy_clean" in last_of(tables, run, "validation")


@pytest.mark.parametrize(
    ("data", "name", "cure"),
    [
        ("markov_text", "imbalance", "every position has a class: use .*few_samples"),
        ("python_source", "instance", "no teacher knows .* use data.corruption.name=symmetric"),
        ("markov_text", "outliers", "on a classification task"),
    ],
)
def test_corruption_that_sequences_cannot_have_is_refused_with_the_cure(data, name, cure):
    with pytest.raises(ValueError, match=cure):
        corrupted(DATA[data].fn(seed=0), name=name, seed=0, params={}, confusions={})


def test_a_loss_is_fed_the_distribution_of_the_next_token():
    sampled, fed = (
        runs_of(losses=["cross_entropy"], data__targets=targets)[0]
        for targets in ("sampled", "distribution")
    )
    splits = splits_of(fed)
    assert splits.targets["train"].shape == (60, 5, 6)
    tables = grouped([fed])
    value = records_of(tables, fed)["steps"].loss_value.iloc[0]
    rows = batch_indices(0, 60, 6, 12)[0]
    model = initial_model(fed, splits, seed=0).double()
    logs = model(splits.inputs["train"][rows]).log_softmax(-1)
    expected = -(splits.posterior["train"][rows] * logs).sum(-1).mean().item()
    assert value == pytest.approx(expected, rel=1e-6)
    assert value != records_of(grouped([sampled]), sampled)["steps"].loss_value.iloc[0]


def test_class_counts_are_those_of_all_positions_of_training():
    runs = runs_of(losses=["logit_adjusted"])
    tables = grouped(runs)
    for run in runs:
        splits = splits_of(run)
        counts = torch.bincount(splits.targets["train"].flatten(), minlength=6)
        assert splits.class_counts.tolist() == counts.tolist()
        output = initial_model(run, splits, seed=run.seed).double()(splits.inputs["train"])
        rows = batch_indices(run.seed, 60, 6, 12)[0]
        shifted = output[rows] + run.loss.params.get("tau", 1.0) * (counts / counts.sum()).log()
        label = splits.targets["train"][rows]
        expected = functional.cross_entropy(shifted.flatten(0, 1), label.flatten()).item()
        value = records_of(tables, run)["steps"].loss_value.iloc[0]
        assert value == pytest.approx(expected, rel=1e-6)


ONE_OF_EACH_FAMILY = {
    row.family: row.name for row in LOSSES.values() if row.task == "classification"
}


@pytest.mark.parametrize("model", beyond(["bigram"], ["gpt"]))
def test_losses_train_on_sequences_and_a_member_depends_on_no_pack_mate(model):
    names = ONE_OF_EACH_FAMILY.values()
    runs = runs_of(model, names, engine__precision="float32", optimizer__lr=0.01, steps=3)
    tables = grouped(runs)
    assert "failed" not in {*tables["runs"].status}, tables["runs"].reason.max()
    for run in runs[:: len(runs) // 3]:
        assert_same_records(records_of(tables, run), records_of(trained([run]), run))


def test_seeds_of_a_loss_are_paired_on_sequences_too():
    frame = grouped(runs_of("gpt"))["runs"]
    for fingerprint in ("init_sha", "batch_sha", "data_sha"):
        assert len(frame[["seed", fingerprint]].drop_duplicates()) == 2


def test_a_start_from_permuted_labels_is_surest_of_what_the_permutation_makes_of_the_likeliest():
    more = {"init__from": "permuted_labels", "data__params": {**SMALL, "examples": 2000}}
    (run, *_) = runs_of(losses=["cross_entropy"], **more)
    splits = splits_of(run)
    table = initial_model(run, splits, seed=0)[1].weight.T
    likeliest = counted_pairs(splits).argmax(-1)
    assert table.argmax(-1).tolist() == derangement(6, seed=0).argsort()[likeliest].tolist()


# ---- what a model can reach ----------------------------------------------------------------------


def counted_pairs(splits):
    """How often each token came after each in training, [V, V]."""
    pairs = zip(splits.inputs["train"].flatten(), splits.targets["train"].flatten(), strict=True)
    counts = torch.zeros(splits.vocabulary, splits.vocabulary, dtype=torch.float64)
    for now, then in pairs:
        counts[now, then] += 1
    return counts


def test_bigram_reaches_the_shares_of_next_tokens_in_training():
    sizes = {**SMALL, "examples": 200}
    more = {"data__params": sizes, "batch_size": 200, "steps": 600, "eval_every": 600}
    (run, *_) = runs_of(losses=["cross_entropy"], optimizer__lr=10.0, **more)
    splits = splits_of(run)
    pairs = counted_pairs(splits)
    shares = pairs / pairs.sum(-1, keepdim=True)
    floor = -(pairs * shares.clamp_min(1e-300).log()).sum() / pairs.sum()
    found = last_of(grouped([run]), run, "train")["loss:own"]
    assert floor < found < floor + 2e-3
    prediction = by_hand(run)[:, 0].softmax(-1)
    tokens = splits.inputs["test"][:, 0]
    torch.testing.assert_close(prediction, shares[tokens], atol=0.01, rtol=0)


# ---- what is refused -----------------------------------------------------------------------------


def test_models_and_losses_that_do_not_fit_are_refused_before_training():
    with pytest.raises(ConfigError, match="model mlp takes no sequences of 5 tokens: use"):
        preflight(runs_of("mlp", ["brier"], model__params={"widths": [4]}))
    with pytest.raises(ConfigError, match="needs sequences of tokens, the inputs are vectors of"):
        preflight([make_run(data="digits", loss="brier", model="bigram")])
    with pytest.raises(ConfigError, match="loss 'mse' is for regression, data 'markov_text' is"):
        make_run(data="markov_text", loss="mse", model="bigram")
    with pytest.raises(ConfigError, match="batch_size is 100, the training split has 60"):
        preflight(runs_of(losses=["brier"], batch_size=100))


def one_answer(inputs, outputs):
    """A model that answers once for a window."""
    return torch.nn.Sequential(MODELS["bigram"].fn(inputs, outputs)[0], _Mean(outputs))


class _Mean(torch.nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.last = torch.nn.Linear(outputs, outputs)

    def forward(self, numbers):
        return self.last(numbers.mean(1))


def test_a_model_that_answers_once_for_a_window_is_refused(monkeypatch):
    monkeypatch.setitem(MODELS, "one_answer", Model(one_answer, "test"))
    message = r"for inputs \[12, 5\] it returns \[12, 6\]: return \[12, 5, 6\], one output for each"
    with pytest.raises(ConfigError, match=message):
        preflight(runs_of("one_answer", ["brier"]))
