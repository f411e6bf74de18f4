"""Data: splits of a seed, standardisation, known truths."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from needs import splits_of_set
from scipy import stats
from sklearn import datasets

from lossbench import fingerprints
from lossbench.data import DATA, real, text
from lossbench.data.corruption import corrupted
from lossbench.data.splits import Extent, permuted
from lossbench.data.synthetic import NOISES
from lossbench.data.targets import distribution
from lossbench.fingerprints.code import _collect

DRAWN = [name for name, row in DATA.items() if row.drawn != "fixed"]
FIXED = [name for name, row in DATA.items() if row.drawn == "fixed"]
SEQUENCES = [row.name for row in text.ROWS]


@pytest.mark.parametrize("name", DRAWN)
def test_a_seed_gives_the_same_data_twice_and_another_seed_other_data(name):
    first, again, other = (splits_of_set(name, seed=seed).sha for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("name", FIXED)
def test_a_fixed_set_gives_every_seed_the_same_tensors(name):
    one, other = (splits_of_set(name, seed=seed) for seed in (1, 2))
    for part in ("inputs", "targets"):
        mine, theirs = getattr(one, part), getattr(other, part)
        assert mine.keys() == theirs.keys() == {"train", "validation", "test"}
        assert all(mine[split] is theirs[split] for split in mine)


@pytest.mark.parametrize("name", [name for name, row in DATA.items() if row.extent is not None])
def test_a_set_is_as_large_as_its_row_says(name):
    assert Extent.of(splits_of_set(name)) == DATA[name].extent


@pytest.mark.parametrize("name", FIXED)
def test_a_set_whose_files_may_be_missing_says_its_size_and_its_licence(name):
    assert DATA[name].extent is not None
    assert DATA[name].licence


@pytest.mark.parametrize("name", FIXED)
def test_the_first_training_rows_of_a_fixed_set_are_like_the_rest(name):
    # An evaluation of a large training split takes its first rows.
    targets = splits_of_set(name).targets["train"].double()
    first, rest = targets.tensor_split([len(targets) // 3])
    error = (first.var(0) / len(first) + rest.var(0) / len(rest)).sqrt()
    assert ((first.mean(0) - rest.mean(0)).abs() < 4.5 * error).all()


@pytest.mark.parametrize("name", DATA)
def test_the_identity_of_a_set_does_not_contain_how_files_are_found(name):
    code = {}
    _collect(DATA[name].fn, code)
    assert any(place.startswith("lossbench.data.splits.") for place in code)
    assert not [place for place in code if place.startswith("lossbench.data.files")]
    assert not {"files", "Files", "Missing", "_downloaded"} & {p.split(".")[-1] for p in code}


@pytest.mark.parametrize(
    "name", [name for name in DRAWN if name not in ("finite_support", *SEQUENCES)]
)
def test_splits_are_60_20_20_and_standardised_by_training_statistics(name):
    splits = splits_of_set(name)
    sizes = {split: len(rows) for split, rows in splits.inputs.items()}
    total = sum(sizes.values())
    assert [round(size / total, 2) for size in sizes.values()] == [0.6, 0.2, 0.2]
    train = splits.inputs["train"].double()
    varies = train.std(0) > 0
    torch.testing.assert_close(
        train.mean(0), torch.zeros(train.shape[1]).double(), atol=1e-6, rtol=0
    )
    deviation = train.std(0, correction=0)[varies]
    torch.testing.assert_close(deviation, torch.ones_like(deviation), atol=1e-5, rtol=0)
    assert not torch.allclose(splits.inputs["test"].mean(0), torch.zeros(1), atol=1e-6)


@pytest.mark.parametrize("count", [36, 442, 1797])
def test_no_seed_trains_or_chooses_on_a_row_that_any_seed_is_tested_by(count):
    rows = [permuted(count, seed=seed) for seed in range(20)]
    assert all(torch.equal(one["test"], rows[0]["test"]) for one in rows)
    test = {*rows[0]["test"].tolist()}
    used = {row for one in rows for split in ("train", "validation") for row in one[split].tolist()}
    assert not used & test
    assert len(used | test) == count
    assert len({tuple(sorted(one["validation"].tolist())) for one in rows}) == 20
    # Over seeds each of the other rows is equally often in validation: 1 in 4.
    chosen = torch.stack(
        [torch.isin(torch.arange(count), permuted(count, s)["validation"]) for s in range(400)]
    )
    shares = chosen.double().mean(0)[sorted(used)]
    assert (shares - 0.25).abs().max() < 5 * (0.25 * 0.75 / 400) ** 0.5


@pytest.mark.parametrize("name", [name for name, row in DATA.items() if row.drawn == "resplit"])
def test_a_set_that_is_split_again_has_one_test_part_and_many_validation_parts(name):
    def raw(seed, split):
        """Targets in units that do not depend on the training split."""
        splits = splits_of_set(name, seed=seed)
        rows = splits.targets[split].double() * splits.target_scale
        return rows - rows.mean(0) * (splits.task == "regression")

    for seed in (1, 2):
        torch.testing.assert_close(raw(0, "test"), raw(seed, "test"), rtol=0, atol=1e-3)
        mine, theirs = raw(0, "validation"), raw(seed, "validation")
        assert mine.shape != theirs.shape or not torch.allclose(mine, theirs, atol=1e-3)


def test_real_targets_of_regression_say_their_unit_and_nothing_else_does():
    for name, row in DATA.items():
        is_real = row.task == "regression" and row.drawn != "generated"
        assert bool(row.unit) == is_real, name
    assert DATA["diamonds"].unit_of({"target": "price"}) == "dollars"
    assert DATA["diamonds"].unit_of({"target": "log_price"}) == "log dollars"
    assert DATA["diabetes"].unit_of({}) == "points of the progression score"


@pytest.mark.parametrize("name", [*real.TABLES, "diabetes"])
@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_what_is_read_from_scikit_learn_has_the_bits_of_its_loader(
    name, is_elsewhere, tmp_path, monkeypatch
):
    if is_elsewhere:  # another scikit-learn, whose files lie elsewhere
        monkeypatch.setattr(real, "_folder", lambda: tmp_path)
    found = real._loaded.__wrapped__(name)
    expected = getattr(datasets, f"load_{name}")(return_X_y=True)
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        assert mine.tobytes() == theirs.tobytes()


def test_reading_digits_imports_no_scikit_learn():
    code = "import sys; from lossbench.data import real; real.digits(seed=0); print([*sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'torch'" in told.stdout
    assert "'sklearn'" not in told.stdout


@pytest.mark.parametrize(("name", "classes"), [("digits", 10), ("breast_cancer", 2), ("wine", 3)])
def test_a_set_of_scikit_learn_is_its_rows_standardised_by_those_of_training(name, classes):
    inputs, labels = getattr(datasets, f"load_{name}")(return_X_y=True)
    rows, splits = permuted(len(labels), seed=4), DATA[name].fn(seed=4)
    assert splits.targets["test"].shape[-1] == classes
    assert splits.targets["test"].argmax(-1).tolist() == labels[rows["test"]].tolist()
    mean, scale = inputs[rows["train"]].mean(0), inputs[rows["train"]].std(0)
    expected = (inputs[rows["test"]] - mean) / np.where(scale > 0, scale, 1)
    np.testing.assert_allclose(splits.inputs["test"], expected, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    [name for name, row in DATA.items() if row.drawn == "generated" and row.task == "regression"],
)
def test_a_set_says_whether_its_test_targets_are_free_of_the_noise_of_training(name):
    splits = DATA[name].fn(seed=0, examples=4000)
    into, back = (torch.log, torch.exp) if name == "noisy_counts" else (torch.clone, torch.clone)

    def seen(split):
        rows = splits.inputs[split].double()
        return torch.cat([rows, torch.ones(len(rows), 1)], -1), splits.targets[split].double()

    design, target = seen("test")
    function = torch.linalg.lstsq(design, into(target)).solution
    noise = {
        split: float((seen(split)[1] - back(seen(split)[0] @ function)).std())
        for split in ("train", "validation", "test")
    }
    if DATA[name].is_test_clean:
        assert noise["test"] < 1e-5
    for split in ("train", "validation"):
        assert (noise[split] > noise["test"] + 0.1) == DATA[name].is_test_clean


def test_counts_scatter_around_their_rate_as_poisson_does():
    few = DATA["noisy_counts"].fn(seed=0, examples=60_000, spread=1e-9, rate=2.5)
    targets = few.targets["train"].double().flatten()
    assert float(targets.std(correction=0)) == pytest.approx(1.0, rel=1e-6)
    counts = few.target_scale * targets
    torch.testing.assert_close(counts, counts.round(), atol=1e-5, rtol=0)
    assert float(counts.mean()) == pytest.approx(2.5, abs=4 * (2.5 / len(counts)) ** 0.5)
    assert float(counts.var()) == pytest.approx(2.5, rel=0.05)


def test_the_logarithm_of_the_rate_is_linear_in_the_inputs_with_the_asked_spread():
    splits = DATA["noisy_counts"].fn(seed=1, examples=50_000, rate=3.0, spread=0.5)
    log_rate = (splits.target_scale * splits.targets["test"].double()).log().flatten()
    inputs = splits.inputs["test"].double()
    design = torch.cat([inputs, torch.ones(len(inputs), 1).double()], -1)
    fitted = design @ torch.linalg.lstsq(design, log_rate[:, None]).solution
    torch.testing.assert_close(fitted.flatten(), log_rate, atol=1e-4, rtol=0)
    assert float(log_rate.std()) == pytest.approx(0.5, rel=0.03)
    assert float(log_rate.mean()) == pytest.approx(np.log(3.0), abs=0.02)


# ---- a finite support ----------------------------------------------------------------------------


def atom_counts(splits, split):
    return torch.bincount(splits.inputs[split].argmax(-1), minlength=splits.inputs[split].shape[-1])


def test_a_finite_support_has_one_hot_inputs_and_each_atom_equally_often():
    splits = DATA["finite_support"].fn(seed=0, examples=1000, atoms=10, classes=3)
    for split, rows in splits.inputs.items():
        assert set(rows.unique().tolist()) == {0.0, 1.0}
        assert (rows.sum(-1) == 1).all()
        assert len(atom_counts(splits, split).unique()) == 1
    assert len(splits.inputs["train"]) == 1000
    assert len(splits.inputs["validation"]) >= 1000


def test_an_atom_has_one_distribution_in_all_splits_and_its_labels_follow_it():
    splits = DATA["finite_support"].fn(seed=3, examples=80_000, atoms=4, classes=3)
    truth = {}
    for split in ("train", "validation", "test"):
        atom, label = splits.inputs[split].argmax(-1), splits.targets[split].argmax(-1)
        for place in range(4):
            (pi,) = splits.posterior[split][atom == place].unique(dim=0).double().numpy()
            np.testing.assert_array_equal(truth.setdefault(place, pi), pi)
            counts = torch.bincount(label[atom == place], minlength=3).numpy()
            expected = counts.sum() * pi / pi.sum()
            assert stats.chisquare(counts, expected).pvalue > 1e-3
    assert min(pi.min() for pi in truth.values()) >= 0.05 / 3 - 1e-7


def test_the_sample_size_changes_nothing_that_models_are_judged_by():
    few, many = (DATA["finite_support"].fn(seed=1, examples=n) for n in (64, 6400))
    for split in ("validation", "test"):
        for part in ("inputs", "targets", "posterior"):
            assert torch.equal(getattr(few, part)[split], getattr(many, part)[split])
    assert torch.equal(few.targets["train"], many.targets["train"][:64])


@pytest.mark.parametrize("concentration", [0.3, 1.0, 5.0])
def test_the_distributions_of_the_atoms_are_a_dirichlet_draw_mixed_with_the_uniform(concentration):
    params = {"examples": 1, "atoms": 20, "classes": 4, "concentration": concentration}
    parts = [DATA["finite_support"].fn(seed=seed, **params) for seed in range(60)]
    posterior = torch.cat([splits.posterior["test"][:20].double() for splits in parts])
    drawn = (posterior - 0.05 / 4) / 0.95
    # One coordinate of a symmetric Dirichlet has a beta distribution.
    beta = stats.beta(concentration, 3 * concentration)
    assert stats.kstest(drawn[:, 0].clamp(0, 1).numpy(), beta.cdf).pvalue > 0.01


def test_clean_linear_is_noisy_linear_without_the_noise():
    clean, noisy = (DATA[name].fn(seed=5) for name in ("clean_linear", "noisy_linear"))
    for split in ("train", "validation", "test"):
        assert torch.equal(clean.inputs[split], noisy.inputs[split])
        x, y = (part[split].double() for part in (clean.inputs, clean.targets))
        x = torch.cat([x, torch.ones(len(x), 1)], -1)
        fit = x @ torch.linalg.lstsq(x, y).solution
        torch.testing.assert_close(fit, y, rtol=0, atol=1e-6)


def test_noises_of_a_seed_share_their_inputs_and_function():
    others = [DATA["noisy_linear"].fn(seed=4, noise=noise) for noise in NOISES[1:]]
    others += [DATA[name].fn(seed=4) for name in ("clean_linear", "noisy_linear_outliers")]
    plain = DATA["noisy_linear"].fn(seed=4)
    for other in others:
        assert torch.equal(plain.inputs["train"], other.inputs["train"])
        # All test on the function itself, in other units.
        both = torch.stack([plain.targets["test"][:, 0], other.targets["test"][:, 0]])
        assert torch.corrcoef(both)[0, 1].item() == pytest.approx(1.0, abs=1e-6)


# ---- what training is fed ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gaussian_mixture", "finite_support"])
def test_distribution_targets_are_the_posterior_in_training_and_labels_elsewhere(name):
    splits = DATA[name].fn(seed=0)
    fed = distribution(splits)
    assert torch.equal(fed.targets["train"], splits.posterior["train"])
    for split in ("validation", "test"):
        assert torch.equal(fed.targets[split], splits.targets[split])
    assert set(splits.targets["train"].unique().tolist()) == {0.0, 1.0}
    assert fed.sha != splits.sha


def test_distribution_targets_of_data_whose_posterior_nobody_knows_are_refused():
    with pytest.raises(ValueError, match=r"not known: use data\.targets=sampled"):
        distribution(DATA["digits"].fn(seed=0))


# ---- what is remembered --------------------------------------------------------------------------


def test_the_fingerprint_is_that_of_all_tensors_by_name():
    for name in ("digits", "gaussian_mixture"):
        splits = DATA[name].fn(seed=0)
        parts = {"inputs": splits.inputs, "targets": splits.targets, "posterior": splits.posterior}
        tensors = {
            f"{part}/{split}": rows for part, by in parts.items() for split, rows in by.items()
        }
        assert splits.sha == dataclasses.replace(splits).sha == fingerprints.tensors_sha(tensors)


def test_inputs_that_seeds_share_are_hashed_once(monkeypatch):
    clean = dataclasses.replace(DATA["mnist1d"].fn(seed=0, examples=500))
    hashed = []
    add = fingerprints.add_tensors

    def add_tensors(digest, tensors):
        hashed.extend(tensors)
        add(digest, tensors)

    # What was hashed before shows in no value; the memory is one for the whole process.
    monkeypatch.setattr("lossbench.data.splits.add_tensors", add_tensors)
    noisy = [
        corrupted(clean, name="symmetric", seed=seed, params={}, confusions={}) for seed in range(3)
    ]
    assert len({one.sha for one in noisy}) == 3
    assert hashed.count("inputs/train") == 1
    assert hashed.count("targets/train") == 3
    elsewhere = {split: rows.clone() for split, rows in clean.inputs.items()}
    assert dataclasses.replace(noisy[0], inputs=elsewhere).sha == noisy[0].sha
    elsewhere["test"][0, 0] += 1.0
    assert dataclasses.replace(noisy[0], inputs=elsewhere).sha != noisy[0].sha


def test_inputs_changed_in_place_or_replaced_have_another_fingerprint():
    first = DATA["digits"].fn(seed=0)
    before = first.sha
    first.inputs["train"][0, 0] += 1.0
    assert dataclasses.replace(first).sha != before
    moved = dataclasses.replace(first, inputs={**first.inputs, "test": first.inputs["validation"]})
    assert moved.sha != dataclasses.replace(first).sha
