"""The verdicts of a sweep, recomputed from its parquet files with nothing but pandas and scipy."""

from __future__ import annotations

import csv
import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from known_interval import interval
from scipy import stats
from trained_sweep import SEEDS, STEPS

MARGIN = 0.02


@pytest.fixture(scope="module")
def tables(essay_sweep):
    """By table what the parquet files hold that commit records name, of four losses on diabetes."""
    parts = {}
    for commit in (essay_sweep / "packs").glob("*/commit.json"):
        for name in json.loads(commit.read_text())["files"]:
            frame = pq.read_table(commit.parent / name).to_pandas()
            parts.setdefault(name.removesuffix(".parquet"), []).append(frame)
    return {name: pd.concat(frames).query("data == 'diabetes'") for name, frames in parts.items()}


@pytest.fixture(scope="module")
def published(essay_sweep):
    with (essay_sweep / "report" / "tables" / "verdicts.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["context"] == "diabetes × linear"]


def ends(tables, split):
    """rmse of every run at its last step."""
    evals = tables["evals"]
    rows = evals[(evals.split == split) & (evals.metric == "rmse")]
    return rows[rows.step == STEPS].astype({"value": float})


def laid_out(tables, split, loss):
    """rmse by seed and learning rate."""
    rows = ends(tables, split)
    return rows[rows.loss == loss].pivot_table(index="seed", columns="lr", values="value")


def resampled():
    """How often each seed counts in each resample: numpy's multinomial from the same start."""
    draw = np.random.default_rng(0)
    return draw.multinomial(SEEDS, np.full(SEEDS, 1 / SEEDS), size=400)


def with_luck(differences, luck, confidence):
    """Mean difference and interval; either side holds the variance of the choice beside its own."""
    mean, low, high = interval(differences.to_numpy(), confidence)
    half = stats.t.ppf(0.5 + confidence / 2, SEEDS - 1) * np.sqrt(luck)
    return [mean, mean - np.hypot(mean - low, half), mean + np.hypot(high - mean, half)]


@pytest.mark.exhaustive
def test_the_published_verdicts_are_recomputed_choice_and_resampling_included(tables, published):
    rows = [row for row in published if row["condition"] == "own_lr"]
    assert len(rows) == 3
    rates, test = {}, {}
    for loss in ("mse", *(row["loss"] for row in rows)):
        validation = laid_out(tables, "validation", loss)
        rates[loss] = [validation.mean().idxmin()]
        for counts in resampled():  # ties are none in rmse; what diverges there is not chosen
            drawn = validation.mul(counts, axis=0)[counts > 0]
            rates[loss].append(drawn.sum(skipna=False).idxmin())
        test[loss] = laid_out(tables, "test", loss)
    for row in rows:
        loss = row["loss"]
        each = zip(rates[loss], rates["mse"], strict=True)
        differences = [test[loss][mine] - test["mse"][theirs] for mine, theirs in each]
        first, *again = differences
        luck = np.var([one.mean() for one in again])
        got = [float(row[name]) for name in ("estimate", "low", "high")]
        expected = with_luck(first, luck, 1 - 0.05 / len(rows))
        assert got == pytest.approx(expected, rel=1e-6, abs=1e-12)
        assert (row["n"], float(row["lr"])) == (str(SEEDS), rates[loss][0])
        assert row["verdict"].partition(" with ")[0] == words(*expected[1:])


def test_at_the_references_rate_the_interval_holds_that_the_rate_was_chosen(tables, published):
    validation = laid_out(tables, "validation", "mse")
    rate = validation.mean().idxmin()
    again = [validation.mul(counts, axis=0).sum().idxmin() for counts in resampled()]
    for row in [row for row in published if row["condition"] == "reference_lr"]:
        both = laid_out(tables, "test", row["loss"]) - laid_out(tables, "test", "mse")
        luck = np.var([both[one].mean() for one in again])
        got = [float(row[name]) for name in ("estimate", "low", "high", "lr")]
        expected = with_luck(both[rate], luck, 1 - 0.05 / 3)
        assert got == pytest.approx([*expected, rate], rel=1e-6, abs=1e-12)


def words(low, high):
    """The verdict of an interval in rmse, where lower is better."""
    if low <= 0 <= high:
        return f"equivalent within {MARGIN}" if low >= -MARGIN and high <= MARGIN else "undecided"
    least, most = sorted((abs(low), abs(high)))
    if most <= MARGIN:
        return f"different, by less than {MARGIN}"
    word = "better" if high < 0 else "worse"
    return f"{word} by more than {MARGIN}" if least > MARGIN else word


def test_pairs_share_their_start_their_batches_and_their_data(tables):
    runs = tables["runs"]
    for sha in ("init_sha", "batch_sha", "data_sha"):
        assert runs.groupby("seed")[sha].nunique().eq(1).all()


def test_every_loss_spent_the_same_on_the_same_seeds(tables):
    runs = tables["runs"]
    tried = runs.groupby("loss")[["lr", "seed"]].apply(lambda one: {*one.itertuples(index=False)})
    assert all(pairs == tried["mse"] for pairs in tried)
