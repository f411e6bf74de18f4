"""The essay's findings say what the records say, and nothing where there are none."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
from trained_sweep import SEEDS, STEPS

from lossbench import records, statistics
from lossbench.report import essay


@pytest.fixture(scope="module")
def loaded(essay_sweep):
    return records.load(essay_sweep)


@pytest.fixture(scope="module")
def tasks(loaded):
    return statistics.Verdicts(loaded).comparisons


@pytest.fixture(scope="module")
def findings(loaded, tasks):
    answers = essay.findings(loaded, tasks)
    return {finding.name[:9]: finding for finding in answers}


def own(loaded, *, config="", **where):
    """Runs at the rate that does best on validation, by match of columns and a part of the config.

    Chosen here a second time: the mean over seeds at the last step, for each loss and place.
    """
    last = loaded.evals[(loaded.evals.step == STEPS) & (loaded.evals.split == "validation")]
    last = last[last.metric == last.data.isin(["diabetes", "clean_linear"]).map(PRIMARY)]
    cost = last.value.where(last.metric == "rmse", -last.value)
    places = loaded.runs.config.map(lambda text: repr(_place(json.loads(text))))
    runs = loaded.runs.assign(
        place=places, cost=loaded.runs.run_id.map(cost.groupby(last.run_id).first())
    )
    means = runs.groupby(["loss", "place", "lr"]).cost.agg(lambda costs: costs.mean(skipna=False))
    best = means.fillna(np.inf).round(9).groupby(["loss", "place"]).idxmin()
    runs = runs[[key in {*best} for key in zip(runs.loss, runs.place, runs.lr, strict=True)]]
    for name, value in where.items():
        runs = runs[runs[name] == value]
    return runs[runs.config.str.contains(config, regex=False)]


PRIMARY = {True: "rmse", False: "accuracy"}


def _place(config):
    """What two runs of one loss share if they differ in seed and learning rate alone."""
    return config["data"], config["init"]


def values(loaded, runs, metric, *, step=STEPS, split="test"):
    """A metric of runs by seed."""
    evals = loaded.evals[(loaded.evals.metric == metric) & (loaded.evals.split == split)]
    evals = evals[(evals.step == step) & evals.run_id.isin(runs.run_id)]
    return evals.set_index("seed").value.astype(float).sort_index()


def test_every_statement_has_a_finding_and_the_page_shows_it(loaded, findings):
    assert [*findings] == ["finding_1", "finding_2", "finding_3", "finding_4"]
    text = (loaded.sweep_dir / "report" / "index.html").read_text()
    folder = loaded.sweep_dir / "report" / "tables"
    for finding in findings.values():
        assert finding.verdict
        assert f'id="{finding.name}"' in text
        assert (folder / f"{finding.name}.csv").is_file()
    assert "The essay's findings, measured" in essay.as_text(statistics.Verdicts(loaded))


def test_only_losses_whose_gradient_is_the_error_are_said_to_follow_it(loaded, findings):
    verdict = findings["finding_1"].verdict
    said = {*re.findall(r"\w+", verdict.partition(" for ")[2].partition(";")[0])} - {"and"}
    steps = loaded.steps[loaded.steps.run_id.isin(own(loaded).run_id)]
    permuted = own(loaded, config="permuted_labels").run_id
    means = steps[~steps.run_id.isin(permuted)].groupby("loss").cosine.min()
    assert said == {loss for loss, least in means.items() if least > 1 - 1e-5}
    assert said == {"mse", "cross_entropy", "bce_ova", "mse_logits"}


def test_what_is_left_without_noise_is_what_the_steps_say(loaded, findings):
    sentence = findings["finding_1"].verdict.partition("error left")[2]
    steps = loaded.steps[loaded.steps.run_id.isin(own(loaded).run_id)]
    for loss, rows in steps[steps.data == "clean_linear"].groupby("loss"):
        ends = (
            rows.sort_values("step")
            .groupby("run_id")
            .error_norm.apply(lambda norms: norms.tail(5).mean())
        )
        assert f"{loss} {ends.median():.1g} " in sentence


def test_what_labels_cost_is_the_difference_seed_by_seed(loaded, findings):
    everything = findings["finding_2"].table
    table = everything[everything.data == "finite_support"].set_index(["loss", "targets"])
    for loss in ("cross_entropy", "mae_probs"):
        distance = {
            kind: values(
                loaded,
                own(loaded, data="finite_support", loss=loss, config=f'"targets": "{kind}"'),
                "tv_posterior",
            )
            for kind in ("sampled", "distribution")
        }
        cost = (distance["sampled"] - distance["distribution"]).mean()
        row = table.loc[(loss, "sampled")]
        assert row.cost_of_labels == pytest.approx(cost, rel=1e-6)
        assert row.low < cost < row.high
        assert row.tv_posterior == pytest.approx(distance["sampled"].mean(), rel=1e-6)
    assert everything.groupby("loss").linear_in_target.first().to_dict() == {
        "brier": True,
        "bce_ova": True,
        "cross_entropy": True,
        "mae_probs": False,
        "mse_logits": True,
        "mse_sigmoid": True,
    }


def test_contexts_that_differ_in_more_than_their_targets_are_not_contrasted(tasks):
    mains = [task for task in tasks if task.is_main]
    dense, labels = (task for task in mains if task.runs.data.iloc[0] == "finite_support")
    assert len(essay._costs_of_labels([dense, labels])) == 2
    shorter = labels.runs.config.str.replace(f'"steps": {STEPS}', '"steps": 9')
    edited = dataclasses.replace(labels, runs=labels.runs.assign(config=shorter))
    assert essay._costs_of_labels([dense, edited]).empty


def test_the_time_to_the_target_is_that_of_the_median_run_and_a_miss_is_never(loaded, findings):
    table = findings["finding_3"].table
    for row in table[table.condition == "own_lr"].itertuples():
        runs = own(loaded, loss=row.loss, config="permuted_labels")
        evals = loaded.evals[loaded.evals.run_id.isin(runs.run_id)]
        evals = evals[(evals.metric == "accuracy") & (evals.split == "validation")]
        first = evals[evals.value >= 0.5].groupby("run_id").step.min()
        times = sorted([*first, *[np.inf] * (len(runs) - len(first))])
        later_of_the_two_middle_ones = times[SEEDS // 2]
        assert (row.median_steps, row.reached) == (later_of_the_two_middle_ones, len(first))
        if np.isinf(row.median_steps):
            sentences = [findings["finding_3"].verdict, *findings["finding_3"].measured]
            reached = "none" if row.reached == 0 else str(row.reached)
            expected = f"{row.loss} in {reached} of {SEEDS} runs within {STEPS}"
            assert any(expected in sentence for sentence in sentences)
    assert np.isinf(table.median_steps).any()


def test_every_loss_starts_confidently_wrong_from_the_same_state(loaded):
    runs = own(loaded, config="permuted_labels")
    assert runs.groupby("seed").init_sha.nunique().eq(1).all()
    for loss in runs.loss.unique():
        start = values(loaded, runs[runs.loss == loss], "accuracy", step=0, split="validation")
        assert start.max() < 0.1


def test_link_and_loss_are_crossed_with_the_numbers_of_the_runs(loaded, findings):
    table = findings["finding_4"].table
    row = table[(table.condition == "own_lr") & (table.metric == "accuracy")].set_index("kind")
    for (kind, link), loss in {
        ("square", "identity"): "mse_logits",
        ("square", "sigmoid"): "mse_sigmoid",
        ("square", "softmax"): "brier",
        ("matching", "sigmoid"): "bce_ova",
        ("matching", "softmax"): "cross_entropy",
    }.items():
        runs = own(loaded, data="gaussian_mixture", loss=loss, config='"from": "random"')
        mean = values(loaded, runs, "accuracy").mean()
        assert float(row[link][kind].partition(" ")[0]) == pytest.approx(mean, abs=6e-3)
    assert row["identity"]["matching"] == "the square"


def test_a_sweep_that_was_not_asked_says_nothing_of_the_essay(loaded, tasks):
    silent = records.Records(loaded.sweep_dir)
    silent.plan = {**loaded.plan, "declarations": []}
    assert essay.findings(silent, tasks) == []
    assert essay.as_text(statistics.Verdicts(silent)) == ""


def test_a_claim_without_its_runs_is_left_out(loaded, tasks):
    regression = [task for task in tasks if task.runs.task.iloc[0] == "regression"]
    answers = essay.findings(loaded, regression)
    assert [finding.name[:9] for finding in answers] == ["finding_1"]
    assert essay.findings(loaded, []) == []
