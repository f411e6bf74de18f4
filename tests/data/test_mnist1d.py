"""MNIST-1D: the package's signals, drawn without touching a global generator."""

from __future__ import annotations

import importlib.util
import random

import numpy as np
import pytest
import torch
from needs import skip_without

from lossbench.data import DATA
from lossbench.data.mnist1d import generated

PUBLISHED = 5000


def package():
    if importlib.util.find_spec("mnist1d") is None:
        skip_without("mnist1d", "needs the package mnist1d: pip install mnist1d")
    from mnist1d import data

    return data


@pytest.mark.parametrize("examples", [100, PUBLISHED])
def test_signals_are_those_of_the_package(examples):
    theirs = package()
    arguments = theirs.get_dataset_args()
    arguments.num_samples = examples
    states = random.getstate(), np.random.get_state()  # noqa: NPY002, it seeds both
    try:
        expected = theirs.make_dataset(arguments)
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
    signals, labels = generated(examples)
    both = np.concatenate([expected["x"], expected["x_test"]])
    np.testing.assert_allclose(signals, both, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(labels, np.concatenate([expected["y"], expected["y_test"]]))


def test_the_published_set_begins_and_ends_with_the_numbers_it_had():
    signals, labels = generated(PUBLISHED)
    first = [-0.33200567, -0.47191037, -0.77869708, -1.00974083]
    last = [0.44723289, 0.65987565, 0.87773435, 1.19315184]
    np.testing.assert_allclose(signals[0, :4], first, atol=1e-7)
    np.testing.assert_allclose(signals[-1, -4:], last, atol=1e-7)
    assert float(np.abs(signals).sum()) == pytest.approx(148316.17264806535, rel=1e-9)
    assert labels[:12].tolist() == [2, 6, 4, 5, 6, 6, 6, 0, 3, 1, 6, 9]


def test_generating_leaves_the_global_generators_alone():
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    generated(50)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])


def test_the_test_split_is_the_published_one_and_all_seeds_share_their_tensors():
    splits = DATA["mnist1d"].fn(seed=0)
    assert {split: tuple(rows.shape) for split, rows in splits.inputs.items()} == {
        "train": (3200, 40),
        "validation": (800, 40),
        "test": (1000, 40),
    }
    assert splits.inputs["train"] is DATA["mnist1d"].fn(seed=7).inputs["train"]
    signals, labels = generated(PUBLISHED)
    assert splits.targets["test"].argmax(-1).tolist() == labels[4000:].tolist()
    # Standardised by training statistics: an affine function of each published column.
    for column in (0, 17, 39):
        pair = np.stack([splits.inputs["test"][:, column].numpy(), signals[4000:, column]])
        assert np.corrcoef(pair)[0, 1] == pytest.approx(1.0, abs=1e-6)


def test_train_and_validation_are_the_published_training_rows_each_once():
    splits = DATA["mnist1d"].fn(seed=0, examples=500)
    labels = generated(500)[1][:400]
    drawn = torch.cat([splits.targets[split] for split in ("train", "validation")]).argmax(-1)
    assert sorted(drawn.tolist()) == sorted(labels.tolist())
    rows = torch.cat([splits.inputs[split] for split in ("train", "validation", "test")])
    assert len(rows.unique(dim=0)) == 500
