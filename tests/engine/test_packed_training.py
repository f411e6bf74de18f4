"""Every model, optimizer and augmentation trains in a pack as it does alone, by torch."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from configs import make_run
from selection import beyond, one_in
from tiny_data import SIZES
from training import (
    MODEL_CASES,
    assert_same_records,
    grouped,
    in_type,
    members_of,
    records_of,
    targets_of,
)

from lossbench.data.augmentation import AUGMENTATIONS, WORDS, draw_words
from lossbench.engine import evaluate
from lossbench.engine.batches import batch_indices
from lossbench.engine.memory_layout import GUARD_ELEMENTS, row_chunks
from lossbench.fingerprints import stream
from lossbench.models import MODELS, initialised
from lossbench.optimizers import OPTIMIZERS
from lossbench.question import ConfigError
from lossbench.records import INSTRUMENTS
from lossbench.sweep import preflight, splits_of


@pytest.fixture(autouse=True)
def data(tiny):
    """The small data sets, for every test here."""


def alone(run):
    """Own loss at each step and at last on test: one module, torch.optim."""
    splits = splits_of(run)
    inputs = in_type(splits.inputs["train"], torch.float64)
    targets = targets_of(splits, "train", torch.float64)
    build = partial(MODELS[run.model.fn].fn, *splits.sizes, **run.model.params)
    model = initialised(build, seed=run.seed).double()
    optimizer = TORCHS[run.optimizer.fn](run)(model.parameters(), lr=run.lr)
    count = run.steps * run.batch_size
    words = draw_words(stream(run.seed, "augmentation"), count).view(
        run.steps, run.batch_size, WORDS
    )
    augmented = partial(AUGMENTATIONS[run.augmentation.fn], **run.augmentation.params)
    values = []
    for step, rows in enumerate(batch_indices(run.seed, len(inputs), run.steps, run.batch_size)):
        loss = run.row.fn(model(augmented(inputs[rows], words[step])), targets[rows]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    model.eval()
    with torch.no_grad():
        output = model(in_type(splits.inputs["test"], torch.float64))
        return values, float(run.row.fn(output, targets_of(splits, "test", torch.float64)).mean())


TORCHS = {
    "sgd": lambda run: partial(torch.optim.SGD, momentum=run.momentum),
    "nesterov": lambda run: partial(torch.optim.SGD, momentum=run.momentum, nesterov=True),
    "adam": lambda run: torch.optim.Adam,
    "adamw": lambda run: partial(torch.optim.AdamW, weight_decay=run.weight_decay),
}


def compared(runs):
    """Packed against alone: own loss of all steps, and at last on test through evaluation."""
    tables = grouped(runs)
    for run in runs:
        found = records_of(tables, run)
        values, last = alone(run)
        np.testing.assert_allclose(found["steps"].loss_value, values, rtol=1e-5, atol=1e-7)
        evals = found["evals"]
        own = evals[(evals.metric == "loss:own") & (evals.split == "test")]
        assert own[own.step == run.steps].value.item() == pytest.approx(last, rel=1e-5)


FACTS = {"steps": 6, "batch_size": 8, "log_every": 1, "eval_every": 6, "optimizer__lr": 0.02}
PRECISE = {"engine__precision": "float64"}


def pack_of(**more):
    facts = {**FACTS, **PRECISE, **more}
    return [
        make_run(**facts, loss=loss, seed=seed)
        for loss in ("cross_entropy", "brier")
        for seed in (0, 1)
    ]


LARGE = ("resnet18", "resnet8 group", "vit dropout", "torchvision")


def test_every_model_is_trained_here():
    assert {model for _, model, _ in MODEL_CASES.values()} == MODELS.keys()


@pytest.mark.parametrize("case", beyond([c for c in MODEL_CASES if c not in LARGE], MODEL_CASES))
def test_a_model_trains_in_a_pack_as_it_does_alone(case):
    name, model, params = MODEL_CASES[case]
    runs = pack_of(data=name, model=model, model__params=params)
    compared(runs[::2] if model == "resnet18" else runs)  # eleven million parameters each


@pytest.mark.parametrize("optimizer", ["nesterov", "adamw"])
def test_an_optimizer_trains_in_a_pack_as_torchs_does_alone(optimizer):
    more = {"optimizer__weight_decay": 0.1} if optimizer == "adamw" else {}
    compared(pack_of(data="tiny_vectors", model="mlp", optimizer=optimizer, **more))


@pytest.mark.parametrize("normalisation", ["none", "layer"])  # a stack, and what vmap computes
@pytest.mark.parametrize("optimizer", one_in(3, OPTIMIZERS))
def test_a_run_has_the_same_bits_alone_and_in_a_pack_with_every_optimizer(optimizer, normalisation):
    params = {"widths": [24, 8], "normalisation": normalisation}
    facts = {**FACTS, "data": "tiny_vectors", "model__params": params, "optimizer": optimizer}
    facts |= {"optimizer__momentum": 0.9, "optimizer__weight_decay": 0.1}
    runs = [
        make_run(**facts, loss=loss, seed=seed)
        for loss in ("cross_entropy", "brier", "focal")
        for seed in (0, 1, 2)
    ]
    together = grouped(runs)
    for run in runs[::4]:
        assert_same_records(records_of(together, run), records_of(grouped([run]), run))


def test_muon_moves_the_last_layer_as_adamw_does_and_hidden_ones_otherwise():
    facts = {**FACTS, "steps": 1, "data": "tiny_vectors", "loss": "cross_entropy"}
    layers = {
        name: grouped([make_run(**facts, optimizer=name)])["layers"].set_index("layer")
        for name in ("muon", "adamw")
    }
    *hidden, last = layers["muon"].index
    ratios = {name: table.update_ratio for name, table in layers.items()}
    assert len(hidden) == 2
    assert ratios["muon"][last] == ratios["adamw"][last] > 0
    assert (ratios["muon"][hidden] != ratios["adamw"][hidden]).all()


@pytest.mark.parametrize("name", ["flip", "crop_flip"])
def test_augmented_batches_are_the_same_in_a_pack_and_alone(name):
    augmentation = {"name": name, "params": {}}
    runs = pack_of(data="tiny_images", model="strided_cnn", data__augmentation=augmentation)
    compared(runs)
    shas = grouped(runs)["runs"].groupby("seed").batch_sha.nunique()
    assert (shas == 1).all()  # and each differs from that of plain batches
    plain = grouped(pack_of(data="tiny_images", model="strided_cnn"))["runs"]
    assert not {*plain.batch_sha} & {*grouped(runs)["runs"].batch_sha}


@pytest.mark.parametrize(
    "case", beyond(["mlp batch dropout", "gpt dropout"], ["resnet8", "lenet", "vit dropout"])
)
def test_a_member_depends_on_no_pack_mate(case):
    name, model, params = MODEL_CASES[case]
    facts = {**FACTS, "data": name, "model": model, "model__params": params}
    is_quick = case in ("mlp batch dropout", "gpt dropout", "lenet")
    facts["instruments"] = [*INSTRUMENTS] if is_quick else ["representation"]
    losses = ("cross_entropy", "brier", "mae_probs")
    runs = [make_run(**facts, loss=loss, seed=seed) for loss in losses for seed in (0, 1, 2)]
    # One that diverges at once leaves the others alone.
    runs.append(make_run(**(facts | {"optimizer__lr": 1e30}), loss="mse_logits"))
    together = grouped(runs)
    assert {*together["runs"].status} == {"done", "diverged"}
    for run in (runs[0], runs[4], runs[8]):
        assert_same_records(records_of(grouped([run]), run), records_of(together, run))


@pytest.mark.parametrize("activation", ["silu", "sigmoid", "tanh", "relu"])
def test_a_member_depends_on_no_pack_mate_where_one_row_is_left_over(activation, monkeypatch):
    monkeypatch.setitem(SIZES, "validation", 513)
    facts = {**FACTS, "batch_size": 24, "data": "tiny_vectors", "model": "mlp"}
    facts["model__params"] = {"widths": [5, 4], "activation": activation}
    runs = [make_run(**facts, loss="brier", seed=seed) for seed in range(8)]
    together = grouped(runs)
    for run in runs:
        assert_same_records(records_of(grouped([run]), run), records_of(together, run))


@pytest.mark.parametrize("at_once", [1, 21, 64, 512])
@pytest.mark.parametrize("rows", [1, 63, 64, 512, 513, 575, 576, 1025, 10_000])
def test_chunks_hold_every_row_once_and_none_is_small(rows, at_once):
    found = row_chunks(rows, at_once)
    assert [row for piece in found for row in range(piece.start, piece.stop)] == [*range(rows)]
    least = min(rows, at_once, GUARD_ELEMENTS)
    assert all(least <= piece.stop - piece.start < at_once + GUARD_ELEMENTS for piece in found)


def test_what_all_seeds_share_is_held_once():
    members = members_of(pack_of(data="tiny_images", model="linear"))
    for split, inputs in members.inputs.items():
        assert inputs.shape[0] == 2
        assert inputs.untyped_storage().nbytes() == SIZES[split] * 3 * 16 * 12 * 8


def test_evaluation_in_chunks_is_that_of_the_whole(monkeypatch):
    runs = pack_of(data="tiny_images", model="resnet8")
    whole = grouped(runs)
    # As with images that no memory holds at once.
    monkeypatch.setattr(evaluate, "CHUNK_OF_IMAGES", 5 * 3 * 16 * 12)
    monkeypatch.setattr(evaluate, "LEAST_ROWS", 5)
    found = grouped(runs)["evals"].value.to_numpy()
    np.testing.assert_allclose(found, whole["evals"].value.to_numpy(), rtol=1e-6, atol=1e-7)


def test_of_a_large_training_split_the_first_examples_are_evaluated(monkeypatch):
    # As with more rows than a test can have.
    monkeypatch.setattr(evaluate, "MOST_TRAINING_ROWS", 10)
    (run,) = pack_of(data="tiny_vectors", model="linear", steps=1, eval_every=1)[:1]
    evals = grouped([run])["evals"]
    first = evals[(evals.step == 0) & (evals.split == "train")].set_index("metric").value
    splits = splits_of(run)
    model = initialised(partial(MODELS["linear"].fn, *splits.sizes), seed=run.seed).double()
    rows = splits.inputs["train"][:10].double(), splits.targets["train"][:10].double()
    right = (model(rows[0]).argmax(-1) == rows[1].argmax(-1)).double().mean()
    assert first["accuracy"] == pytest.approx(float(right), abs=1e-6)


def test_augmentation_of_vectors_is_refused_before_training():
    augmentation = {"name": "flip", "params": {}}
    run = make_run(**FACTS, data="digits", loss="brier", data__augmentation=augmentation)
    with pytest.raises(ConfigError, match="needs images"):
        preflight([run])


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (
            {"optimizer": "muon", "model": "linear"},
            "linear: it has no hidden layer whose matrix muon could update: use optimizer=adamw",
        ),
        (
            {"optimizer": "muon", "optimizer__params": {"adjust": "more"}},
            "adjust is 'more': use original or match_rms_adamw",
        ),
        (
            {"schedule": "warmup", "schedule__params": {"share": 1.5}},
            "share is 1.5: use 0 to 1, like 0.1",
        ),
    ],
    ids=["no hidden layer", "adjust", "share"],
)
def test_what_an_optimizer_or_schedule_cannot_do_is_refused_before_training(facts, message):
    with pytest.raises(ConfigError, match=message):
        preflight([make_run(**{**FACTS, "data": "tiny_vectors", "loss": "brier", **facts})])
