"""Corruption: what is changed, how much, for whom, and what stays as it was."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch
from configs import make_run
from scipy import stats
from sklearn.linear_model import LogisticRegression

from lossbench.data import DATA, teacher
from lossbench.data.corruption import CORRUPTIONS, corrupted, realised, symmetric
from lossbench.data.splits import Splits
from lossbench.data.teacher import teacher_probabilities
from lossbench.fingerprints import stream
from lossbench.question import ConfigError, code
from lossbench.sweep.preflight import preflight, splits_of

LABEL_NOISE = ("symmetric", "pairflip", "asymmetric", "instance")
TARGET_NOISE = (*LABEL_NOISE, "outliers")
DROPPING = {"imbalance": {"ratio": 20.0}, "few_samples": {"count": 200}}


def noised(name, splits, *, seed=0, **params):
    confusions = DATA["digits"].confusions
    return corrupted(splits, name=name, seed=seed, params=params, confusions=confusions)


def clean_for(name, *, seed=0):
    return DATA["noisy_linear" if name == "outliers" else "digits"].fn(seed=seed)


def changed(splits, split="train"):
    return (splits.clean[split] != splits.targets[split]).any(-1)


def labels(count, classes):
    targets = torch.nn.functional.one_hot(torch.arange(count) % classes, classes).float()
    return Splits({}, dict.fromkeys(("train", "validation"), targets), "classification", 1.0)


def fashion_like():
    """A set with one published split, classes equally frequent in training."""
    label = {"train": torch.arange(3000) % 10, "validation": torch.arange(1000) % 10}
    return Splits(
        {split: torch.zeros(len(rows), 1, 4, 4) for split, rows in label.items()},
        {split: torch.nn.functional.one_hot(rows, 10).float() for split, rows in label.items()},
        "classification",
        1.0,
    )


# ---- all that changes targets --------------------------------------------------------------------


@pytest.mark.parametrize("name", TARGET_NOISE)
def test_train_and_validation_are_changed_test_never_and_what_was_is_kept(name):
    clean = clean_for(name)
    noisy = noised(name, clean, rate=0.4)
    assert noisy.uncorrupted is clean
    assert noisy.clean is clean.targets
    assert torch.equal(noisy.targets["test"], clean.targets["test"])
    assert changed(noisy, "train").any()
    assert changed(noisy, "validation").any()
    assert noisy.inputs is clean.inputs


@pytest.mark.parametrize("name", TARGET_NOISE)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_what_is_changed_at_a_small_rate_is_changed_into_the_same_at_a_large_one(name, split):
    clean = clean_for(name)
    small, large = (noised(name, clean, rate=rate) for rate in (0.2, 0.4))
    few, many = changed(small, split), changed(large, split)
    assert 0 < int(few.sum()) < int(many.sum())
    assert not (few & ~many).any()
    assert torch.equal(small.targets[split][few], large.targets[split][few])


@pytest.mark.parametrize("name", TARGET_NOISE)
def test_a_seed_corrupts_alike_twice_and_another_seed_otherwise(name):
    clean = clean_for(name)
    first, again, other = (noised(name, clean, seed=seed, rate=0.4) for seed in (1, 1, 2))
    assert first.sha == again.sha
    assert not torch.equal(first.targets["train"], other.targets["train"])


@pytest.mark.parametrize("name", TARGET_NOISE)
def test_a_rate_of_zero_changes_nothing_and_one_that_is_none_is_refused(name):
    clean = clean_for(name)
    assert not changed(noised(name, clean, rate=0.0)).any()
    for rate in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=f"{name} of rate {rate}: use 0 to 1"):
            noised(name, clean, rate=rate)


# ---- label noise ---------------------------------------------------------------------------------


def test_symmetric_noise_flips_the_asked_share_to_every_other_class_alike():
    noisy = symmetric(labels(100_000, 4), draw=stream(0, "corruption"), rate=0.3)
    before, after = (part["train"].argmax(-1) for part in (noisy.clean, noisy.targets))
    counts = torch.bincount((after - before) % 4, minlength=4)
    assert stats.chisquare(counts.numpy(), [70_000, 10_000, 10_000, 10_000]).pvalue > 0.01


def test_symmetric_noise_has_the_bits_that_it_had_when_it_was_alone():
    noisy = noised("symmetric", labels(1000, 7), seed=3, rate=0.4)
    flat = [noisy.targets[split].argmax(-1).numpy() for split in ("train", "validation")]
    digest = hashlib.sha256(np.concatenate(flat).astype("int64").tobytes()).hexdigest()
    assert digest[:16] == "30f38a73064b8eba"


def test_pairflip_turns_a_class_into_the_next_one_and_the_last_into_the_first():
    noisy = noised("pairflip", labels(40_000, 4), rate=0.45)
    shift = (noisy.targets["train"].argmax(-1) - noisy.clean["train"].argmax(-1)) % 4
    assert {*shift.tolist()} == {0, 1}
    assert float(shift.float().mean()) == pytest.approx(0.45, abs=4 * (0.25 / 40_000) ** 0.5)


def test_asymmetric_noise_follows_the_confusions_and_spares_other_classes():
    noisy = noised("asymmetric", labels(40_000, 10), rate=0.3)
    matrix = np.array(json.loads(realised(noisy)["transition"]))
    partner = DATA["digits"].confusions
    for label in range(10):
        to = partner.get(label, label)
        flips = matrix[label].copy()
        flips[[label, to]] = 0.0
        assert flips.sum() == 0.0
        expected = 0.3 if label in partner else 1.0
        assert matrix[label, to] == pytest.approx(expected, abs=0.03)


def test_an_edited_map_of_confusions_makes_other_runs_of_asymmetric_alone(monkeypatch):
    def ids():
        code._code_shas.cache_clear()
        noises = [{"name": name, "params": {}} for name in ("asymmetric", "pairflip")]
        return [
            make_run(data="digits", loss="brier", data__corruption=noise).run_id for noise in noises
        ]

    before = ids()
    edited = dataclasses.replace(DATA["digits"], confusions={1: 7})
    monkeypatch.setitem(DATA, "digits", edited)
    after = ids()
    monkeypatch.undo()
    code._code_shas.cache_clear()
    assert after[0] != before[0]
    assert after[1] == before[1]


@pytest.mark.parametrize("data", ["digits", "gaussian_mixture"])
@pytest.mark.parametrize("rate", [0.1, 0.4, 0.8])
def test_instance_noise_has_the_asked_mean_rate_in_train_and_validation(data, rate):
    clean = DATA[data].fn(seed=0)
    for split in ("train", "validation"):
        shares = [
            float(changed(noised("instance", clean, seed=seed, rate=rate), split).double().mean())
            for seed in range(6)
        ]
        count = 6 * len(clean.targets[split])
        assert np.mean(shares) == pytest.approx(rate, abs=4 * (0.25 / count) ** 0.5)


def test_instance_noise_flips_the_doubtful_into_what_their_posterior_says():
    clean = DATA["gaussian_mixture"].fn(seed=0, examples=60_000, classes=3, features=2)
    noisy = noised("instance", clean, rate=0.2)
    q, label = clean.posterior["train"].double(), clean.targets["train"].argmax(-1)
    other = q.scatter(-1, label[:, None], 0.0)
    doubt, is_flipped = other.sum(-1), changed(noisy)
    scale = 0.2 / float(doubt.mean())
    for low, high in ((0.0, 0.05), (0.05, 0.3), (0.3, 0.6)):
        inside = (doubt > low) & (doubt <= high)
        expected = (scale * doubt[inside]).clamp(max=1.0).mean()
        error = 4 * (0.25 / int(inside.sum())) ** 0.5
        # The scale is a little above that of the mean, as far as chances were cut off at 1.
        assert float(is_flipped[inside].double().mean()) == pytest.approx(float(expected), abs=0.05)
        assert error < 0.05
    into = noisy.targets["train"].argmax(-1)[is_flipped]
    hits = torch.bincount(into, minlength=3).double()
    chances = (other / doubt[:, None])[is_flipped].sum(0)
    assert stats.chisquare(hits.numpy(), chances.numpy()).pvalue > 1e-3


def test_the_teacher_reads_images_as_it_reads_rows():
    clean = DATA["digits"].fn(seed=0)
    images = {split: rows.view(-1, 1, 8, 8) for split, rows in clean.inputs.items()}
    rows, pictures = (
        noised("instance", dataclasses.replace(clean, inputs=inputs), rate=0.3)
        for inputs in (clean.inputs, images)
    )
    assert torch.equal(rows.targets["train"], pictures.targets["train"])


def test_one_teacher_serves_all_seeds_and_rates_of_the_same_tensors(monkeypatch):
    fits = []
    fit = LogisticRegression.fit
    # How often it is fitted shows in no value.
    monkeypatch.setattr(LogisticRegression, "fit", lambda *a: fits.append(1) or fit(*a))
    clean = DATA["mnist1d"].fn(seed=0, examples=500)
    alone = [teacher_probabilities(clean.inputs, clean.targets["train"]) for _ in range(2)]
    noisy = [
        noised("instance", DATA["mnist1d"].fn(seed=seed, examples=500), seed=seed, rate=rate)
        for seed in range(3)
        for rate in (0.1, 0.3)
    ]
    assert len(fits) == 2 + 1
    assert len({one.sha for one in noisy}) == 6
    for split, rows in alone[0].items():
        assert torch.equal(rows, alone[1][split])
    other = dataclasses.replace(clean, inputs={k: v.clone() for k, v in clean.inputs.items()})
    assert torch.equal(
        noised("instance", other, rate=0.1).targets["train"], noisy[0].targets["train"]
    )
    assert len(fits) == 2 + 2


def test_a_teacher_is_asked_about_few_rows_at_once_and_all_get_its_answer(monkeypatch):
    asked = []
    ask = LogisticRegression.predict_proba

    def predict_proba(self, rows):
        asked.append(len(rows))
        return ask(self, rows)

    # Nor at how many rows at once it looks.
    monkeypatch.setattr(LogisticRegression, "predict_proba", predict_proba)
    clean = DATA["digits"].fn(seed=0)
    whole = teacher_probabilities(clean.inputs, clean.targets["train"])
    monkeypatch.setattr(teacher, "CHUNK", 100)
    parts = teacher_probabilities(clean.inputs, clean.targets["train"])
    assert max(asked[-15:]) == 100
    for split in ("train", "validation"):
        torch.testing.assert_close(parts[split], whole[split], rtol=1e-12, atol=1e-15)
        assert float(parts[split].sum(-1).sub(1).abs().max()) < 1e-12


# ---- outliers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("is_one_sided", "up"), [(False, 0.5), (True, 1.0)])
def test_outliers_move_the_asked_share_by_their_size_to_the_asked_side(is_one_sided, up):
    clean = DATA["noisy_linear"].fn(seed=0, examples=40_000)
    noisy = noised("outliers", clean, rate=0.1, size=7.0, is_one_sided=is_one_sided)
    move = (noisy.targets["train"] - clean.targets["train"]).flatten()
    moved = move[move != 0]
    torch.testing.assert_close(moved.abs(), torch.full_like(moved, 7.0), rtol=1e-4, atol=0)
    count = len(move)
    assert len(moved) / count == pytest.approx(0.1, abs=4 * (0.09 / count) ** 0.5)
    assert float((moved > 0).double().mean()) == pytest.approx(up, abs=0.04)


# ---- fewer rows ----------------------------------------------------------------------------------


def counts_of(splits):
    return splits.targets["train"].sum(0).long().tolist()


@pytest.mark.parametrize("name", DROPPING)
def test_dropping_rows_leaves_validation_and_test_and_pairs_of_input_and_target(name):
    clean = DATA["gaussian_mixture"].fn(seed=0)
    few = noised(name, clean, **DROPPING[name])
    assert not few.clean
    assert realised(few) == {"corrupted_share": 0.0, "transition": ""}
    known = {tuple(row): place for place, row in enumerate(clean.inputs["train"].tolist())}
    rows = [known[tuple(row)] for row in few.inputs["train"].tolist()]
    assert len({*rows}) == len(rows) < len(known)
    for part in ("targets", "posterior"):
        before, after = getattr(clean, part), getattr(few, part)
        assert torch.equal(after["train"], before["train"][rows])
        for split in ("validation", "test"):
            assert after[split] is before[split]


@pytest.mark.parametrize("kind", ["exponential", "step"])
@pytest.mark.parametrize("source", ["digits", "fashion_like"])
def test_the_counts_of_imbalanced_classes_are_the_same_for_twenty_seeds(kind, source):
    found = set()
    for seed in range(20):
        clean = fashion_like() if source == "fashion_like" else DATA["digits"].fn(seed=seed)
        found.add((*counts_of(noised("imbalance", clean, seed=seed, kind=kind, ratio=10.0)),))
    (counts,) = found
    assert max(counts) / min(counts) == pytest.approx(10.0, rel=0.05)
    assert list(counts) == sorted(counts, reverse=True)


def test_exponential_imbalance_falls_by_one_factor_and_step_imbalance_once():
    clean = fashion_like()
    falling = counts_of(noised("imbalance", clean, ratio=100.0, largest=1.0))
    assert falling == [round(300 * 100 ** (-c / 9)) for c in range(10)]
    step = counts_of(noised("imbalance", clean, kind="step", ratio=100.0, largest=1.0))
    assert step == [300] * 5 + [3] * 5


@pytest.mark.parametrize("name", DROPPING)
def test_fewer_rows_are_among_more_rows(name):
    clean = DATA["digits"].fn(seed=1)
    key, small, large = {"imbalance": ("ratio", 50.0, 5.0), "few_samples": ("count", 50, 500)}[name]
    few, many = (
        {tuple(row) for row in noised(name, clean, **{key: value}).inputs["train"].tolist()}
        for value in (small, large)
    )
    assert few < many


@pytest.mark.parametrize("seed", range(3))
def test_few_samples_are_as_many_for_every_seed_and_of_all_classes_alike(seed):
    counts = counts_of(noised("few_samples", DATA["digits"].fn(seed=seed), seed=seed, count=203))
    assert sum(counts) == 203
    assert {*counts} == {20, 21}
    numbers = noised("few_samples", DATA["diabetes"].fn(seed=seed), seed=seed, count=40)
    assert [len(numbers.inputs[split]) for split in ("train", "validation")] == [40, 89]


def test_few_samples_take_all_of_a_rare_class_before_more_of_the_others():
    rare = torch.nn.functional.one_hot((torch.arange(100) < 5).long(), 2).float()
    splits = Splits({"train": rare}, {"train": rare}, "classification", 1.0)
    assert counts_of(noised("few_samples", splits, count=30)) == [25, 5]


REFUSED = [
    *((name, "diabetes", {}, "corruption none") for name in (*LABEL_NOISE, "imbalance")),
    ("asymmetric", "wine", {}, r"data\.corruption\.name=pairflip"),
    ("outliers", "digits", {}, "corruption.name=symmetric"),
    ("outliers", "diabetes", {"size": 0.0}, "size 0.0: use a positive"),
    ("imbalance", "digits", {"kind": "linear"}, "exponential or step"),
    ("imbalance", "digits", {"ratio": 0.5}, "ratio of 1 or more"),
    ("imbalance", "digits", {"largest": 1.5}, "largest above 0"),
    ("imbalance", "digits", {"largest": 1.0, "ratio": 1.0}, "smaller data.corruption.params.larg"),
    ("few_samples", "digits", {"count": 0}, "use 1 to 1078"),
    ("few_samples", "digits", {"count": 2000}, "use 1 to 1078"),
]


@pytest.mark.parametrize(("name", "data", "params", "message"), REFUSED)
def test_what_cannot_be_is_refused_with_the_cure(name, data, params, message):
    confusions = DATA[data].confusions
    with pytest.raises(ValueError, match=message):
        corrupted(DATA[data].fn(seed=0), name=name, seed=0, params=params, confusions=confusions)


def test_instance_noise_that_no_example_is_doubtful_enough_for_is_refused():
    sure = torch.eye(2).repeat(50, 1)
    both = {"train": sure, "validation": sure}
    splits = Splits({}, both, "classification", 1.0, posterior=both)
    with pytest.raises(ValueError, match="0 of 100 examples can be mistaken"):
        noised("instance", splits, rate=0.1)


# ---- as a factor ---------------------------------------------------------------------------------


def test_what_was_realised_is_told_as_share_and_matrix():
    targets = torch.eye(2)[[0, 0, 0, 0, 1, 1]]
    given = torch.eye(2)[[0, 1, 1, 1, 1, 1]]
    before = Splits({}, {"train": targets}, "classification", 1.0)
    splits = dataclasses.replace(before, targets={"train": given}, uncorrupted=before)
    told = realised(splits)
    assert told["corrupted_share"] == 0.5
    assert json.loads(told["transition"]) == [[0.25, 0.75], [0.0, 1.0]]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_is_a_factor_that_a_run_can_have(name):
    data = {"outliers": ("diabetes", "mse")}.get(name, ("digits", "brier"))
    noise = {"name": name, "params": {}}
    run = make_run(data=data[0], loss=data[1], data__corruption=noise)
    clean = make_run(data=data[0], loss=data[1])
    assert (splits_of(run).sha == splits_of(clean).sha) == (name == "none")
    assert (run.run_id == clean.run_id) == (name == "none")


def test_the_map_of_confusions_is_no_parameter_that_may_be_typed():
    noise = {"name": "asymmetric", "params": {"confusions": {1: 2}}}
    with pytest.raises(ConfigError, match="'confusions' is unknown"):
        make_run(data="digits", loss="brier", data__corruption=noise)


IMBALANCED = {"name": "imbalance", "params": {"ratio": 1.0, "largest": 0.9}}
"""Digits of some seeds have as many training rows of each class, those of others have fewer."""


def takes(seed):
    try:
        noised("imbalance", DATA["digits"].fn(seed=seed), seed=seed, **IMBALANCED["params"])
    except ValueError:
        return False
    return True


def test_a_seed_whose_split_is_refused_is_named_before_any_training():
    seeds = range(12)
    good = [seed for seed in seeds if takes(seed)]
    bad = [seed for seed in seeds if seed not in good]
    assert good
    assert bad
    runs = [
        make_run(data="digits", loss="brier", data__corruption=IMBALANCED, seed=seed)
        for seed in (good[0], bad[0], good[1])
    ]
    preflight([runs[0], runs[2]])
    told = f"data digits, corruption imbalance, seed {bad[0]}: imbalance wants .*largest than"
    with pytest.raises(ConfigError, match=told):
        preflight(runs)
    with pytest.raises(ConfigError, match=told):
        preflight(runs[1:])


@pytest.mark.parametrize(("data", "built"), [("mnist1d", {0}), ("gaussian_mixture", {0, 1, 2})])
def test_seeds_that_share_a_split_are_not_built_one_by_one(data, built, monkeypatch):
    seen, row = [], DATA[data]

    def counted(*, seed, **params):
        seen.append(seed)
        return row.fn(seed=seed, **params)

    few = {"name": "few_samples", "params": {}}
    runs = [make_run(data=data, loss="brier", data__corruption=few, seed=seed) for seed in range(3)]
    monkeypatch.setitem(DATA, data, dataclasses.replace(row, fn=counted))
    preflight(runs)
    assert {*seen} == built
