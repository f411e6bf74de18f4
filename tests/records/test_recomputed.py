"""The verdicts of a sweep, recomputed from its parquet files with nothing but pandas and scipy."""

from __future__ import annotations

import csv
import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
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
        return [row for row in csv.DictReader(file) if row["task"] == "diabetes × linear"]


def ends(tables, stage, split):
    """rmse of every run at its last step."""
    evals = tables["evals"]
    rows = evals[(evals.stage == stage) & (evals.split == split) & (evals.metric == "rmse")]
    return rows[rows.step == STEPS].astype({"value": float})


def chosen(tables):
    """Learning rate with the best mean validation rmse over the seeds that tuned."""
    means = ends(tables, "tune", "validation").groupby(["loss", "lr"]).value.mean()
    return {loss: means[loss].idxmin() for loss in means.index.unique("loss")}


def test_every_condition_ran_at_the_learning_rate_it_is_named_after(tables):
    confirm, best = ends(tables, "confirm", "test"), chosen(tables)
    first = tables["steps"].query("stage == 'tune' and step == 0")
    for (loss, condition), rows in confirm.groupby(["loss", "condition"]):
        (rate,) = rows.lr.unique()
        scale = [
            np.log(first[(first.loss == one) & (first.lr == best[one])].output_gradient_norm).mean()
            for one in ("mse", loss)
        ]
        expected = {
            "own_lr": best[loss],
            "reference_lr": best["mse"],
            "scale_matched": best["mse"] * np.exp(scale[0] - scale[1]),
        }
        assert rate == pytest.approx(expected[condition], rel=1e-5)


def test_the_published_verdicts_are_those_of_a_paired_t_test_by_hand(tables, published):
    confirm = ends(tables, "confirm", "test")
    base = confirm[confirm.loss == "mse"].set_index("seed").value
    assert len(published) == 3 * 3
    for condition in ("own_lr", "reference_lr", "scale_matched"):
        rows = [row for row in published if row["condition"] == condition]
        p_values = []
        for row in rows:
            mine = confirm[(confirm.loss == row["loss"]) & (confirm.condition == condition)]
            difference = (mine.set_index("seed").value - base).sort_index()
            level = 1 - 0.05 / len(rows)
            test = stats.ttest_1samp(difference, 0)
            interval = test.confidence_interval(level)
            got = [float(row[name]) for name in ("estimate", "low", "high")]
            expected = [difference.mean(), interval.low, interval.high]
            assert got == pytest.approx(expected, rel=1e-6, abs=1e-12)
            assert row["n"] == str(SEEDS)
            assert row["verdict"].partition(" with ")[0] == words(interval)
            p_values.append(test.pvalue)
        holm = stepped_down(p_values)
        assert [float(row["p_holm"]) for row in rows] == pytest.approx(holm, rel=1e-6)


def words(interval):
    """The verdict of an interval in rmse, where lower is better."""
    inside = interval.low >= -MARGIN and interval.high <= MARGIN
    if interval.low <= 0 <= interval.high:
        return f"equivalent within {MARGIN}" if inside else "not distinguishable"
    if inside:
        return f"different but below {MARGIN}"
    return "better" if interval.high < 0 else "worse"


def stepped_down(p_values):
    order = np.argsort(p_values)
    raised = np.array(p_values)[order] * np.arange(len(p_values), 0, -1)
    return np.minimum(np.maximum.accumulate(raised), 1)[np.argsort(order)]


def test_pairs_share_their_start_their_batches_and_their_data(tables):
    runs = tables["runs"]
    for sha in ("init_sha", "batch_sha", "data_sha"):
        assert runs.groupby("seed")[sha].nunique().eq(1).all()


def test_tuning_saw_no_test_row_and_spent_the_same_on_every_loss(tables):
    evals, runs = tables["evals"], tables["runs"]
    assert {*evals[evals.stage == "tune"].split} == {"train", "validation"}
    tried = runs[runs.stage == "tune"].groupby("loss").lr.agg(lambda lr: tuple(sorted({*lr})))
    assert len({*tried}) == 1
    assert not {*runs[runs.stage == "tune"].seed} & {*runs[runs.stage == "confirm"].seed}
