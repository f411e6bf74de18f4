"""The essay's findings say what the records say, and nothing where there are none."""

from __future__ import annotations

import contextlib
import dataclasses
import re

import numpy as np
import pytest
from configs import TINY, write_experiment
from undrawn import undrawn

from lossbench import cli, records, statistics
from lossbench.report import essay

EXPERIMENT = TINY.replace("tiny", "findings").replace("steps: 4", "steps: 20")
EXPERIMENT = EXPERIMENT.replace("eval_every: 2", "eval_every: 5")
EXPERIMENT = EXPERIMENT.replace(
    """      - data: [diabetes]
        model: [linear]
        loss: [mse, mae]
""",
    """      - { data: [clean_linear], model: [linear], loss: [mse, quartic] }
      - data: [finite_support]
        model: [linear]
        data.targets: [sampled, distribution]
        data.params.examples: [320]
        loss: [cross_entropy, mae_probs]
      - data: [gaussian_mixture]
        model: [linear]
        init.from: [random, permuted_labels]
        loss: [cross_entropy, bce_ova, mse_logits, brier, mse_sigmoid]
""",
)
EXPERIMENT = EXPERIMENT.replace(
    "conditions: [own_lr]", "conditions: [own_lr, reference_lr, scale_matched]"
)
EXPERIMENT = EXPERIMENT.replace("lr: [0.01, 0.1, 1.0]", "lr: [0.01, 0.1]")
EXPERIMENT += "      targets: { classification: 0.5 }\n      questions: [essay]\n"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    place = tmp_path_factory.mktemp("findings")
    write_experiment(place, "findings", EXPERIMENT)
    with contextlib.chdir(place), undrawn():
        assert cli.main(["--config-dir", "conf", "experiment=findings"]) == cli.DONE
        loaded = records.load(place / "runs" / "findings")
        loaded.sweep_dir = place / "runs" / "findings"
        return loaded


@pytest.fixture(scope="module")
def findings(found):
    return {one.name[:9]: one for one in essay.findings(found, statistics.all_comparisons(found))}


def own(found, *, config="", **where):
    """Confirmed runs at their own rate, by exact match of columns and a part of the config."""
    runs = found.runs[found.runs.condition == "own_lr"]
    for name, value in where.items():
        runs = runs[runs[name] == value]
    return runs[runs.config.str.contains(config, regex=False)]


def values(found, runs, metric, *, step=20, split="test"):
    """A metric of runs by seed."""
    evals = found.evals[(found.evals.metric == metric) & (found.evals.split == split)]
    evals = evals[(evals.step == step) & evals.run_id.isin(runs.run_id)]
    return evals.set_index("seed").value.astype(float).sort_index()


def test_every_statement_has_a_finding_and_the_page_shows_it(found, findings):
    assert [*findings] == ["finding_1", "finding_2", "finding_3", "finding_4"]
    text = (found.sweep_dir / "report" / "index.html").read_text()
    folder = found.sweep_dir / "report" / "tables"
    for one in findings.values():
        assert one.verdict
        assert f'id="{one.name}"' in text
        assert (folder / f"{one.name}.csv").is_file()
    assert "The essay's findings, measured" in essay.as_text(found)


def test_only_losses_whose_gradient_is_the_error_are_said_to_follow_it(found, findings):
    verdict = findings["finding_1"].verdict
    said = {*re.findall(r"\w+", verdict.partition(" for ")[2].partition(";")[0])} - {"and"}
    steps = found.steps[found.steps.condition == "own_lr"]
    permuted = own(found, config="permuted_labels").run_id
    means = steps[~steps.run_id.isin(permuted)].groupby("loss").cosine.min()
    assert said == {loss for loss, least in means.items() if least > 1 - 1e-5}
    assert said == {"mse", "cross_entropy", "bce_ova", "mse_logits"}


def test_what_is_left_without_noise_is_what_the_steps_say(found, findings):
    sentence = findings["finding_1"].verdict.partition("error left")[2]
    last = found.steps[(found.steps.condition == "own_lr") & (found.steps.data == "clean_linear")]
    for loss, rows in last.groupby("loss"):
        ends = (
            rows.sort_values("step")
            .groupby("run_id")
            .error_norm.apply(lambda norms: norms.tail(5).mean())
        )
        assert f"{loss} {ends.median():.1g} " in sentence


def test_what_labels_cost_is_the_difference_seed_by_seed(found, findings):
    everything = findings["finding_2"].table
    table = everything[everything.data == "finite_support"].set_index(["loss", "targets"])
    for loss in ("cross_entropy", "mae_probs"):
        distance = {
            kind: values(
                found,
                own(found, data="finite_support", loss=loss, config=f'"targets": "{kind}"'),
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


def test_contexts_that_differ_in_more_than_their_targets_are_not_contrasted(found):
    known = [
        task
        for task in statistics.all_comparisons(found)
        if task.is_main and task.runs.data.iloc[0] == "finite_support"
    ]
    assert len(essay._costs_of_labels(known)) == 2
    dense, labels = known
    edited = labels.runs.assign(config=labels.runs.config.str.replace('"steps": 20', '"steps": 9'))
    assert essay._costs_of_labels([dense, dataclasses.replace(labels, runs=edited)]).empty


def test_the_time_to_the_target_is_that_of_the_median_run_and_a_miss_is_never(found, findings):
    table = findings["finding_3"].table
    for row in table[table.condition == "own_lr"].itertuples():
        runs = own(found, loss=row.loss, config="permuted_labels")
        evals = found.evals[found.evals.run_id.isin(runs.run_id)]
        evals = evals[(evals.metric == "accuracy") & (evals.split == "validation")]
        first = evals[evals.value >= 0.5].groupby("run_id").step.min()
        times = sorted([*first, *[np.inf] * (len(runs) - len(first))])
        assert (row.median_steps, row.reached) == (times[1], len(first))  # of three runs
        if np.isinf(row.median_steps):
            said = [findings["finding_3"].verdict, *findings["finding_3"].measured]
            got = "none" if row.reached == 0 else str(row.reached)
            assert any(f"{row.loss} in {got} of 3 runs within 20" in text for text in said)
    assert np.isinf(table.median_steps).any()


def test_every_loss_starts_confidently_wrong_from_the_same_state(found):
    runs = own(found, config="permuted_labels")
    assert runs.groupby("seed").init_sha.nunique().eq(1).all()
    for loss in runs.loss.unique():
        start = values(found, runs[runs.loss == loss], "accuracy", step=0, split="validation")
        assert start.max() < 0.1


def test_link_and_loss_are_crossed_with_the_numbers_of_the_runs(found, findings):
    table = findings["finding_4"].table
    row = table[(table.condition == "own_lr") & (table.metric == "accuracy")].set_index("kind")
    for (kind, link), loss in {
        ("square", "identity"): "mse_logits",
        ("square", "sigmoid"): "mse_sigmoid",
        ("square", "softmax"): "brier",
        ("matching", "sigmoid"): "bce_ova",
        ("matching", "softmax"): "cross_entropy",
    }.items():
        runs = own(found, data="gaussian_mixture", loss=loss, config='"from": "random"')
        mean = values(found, runs, "accuracy").mean()
        assert float(row[link][kind].partition(" ")[0]) == pytest.approx(mean, abs=6e-3)
    assert row["identity"]["matching"] == "the square"


def test_a_sweep_that_was_not_asked_says_nothing_of_the_essay(found):
    plan = {**found.plan, "declarations": []}
    silent = records.Records(found.sweep_dir)
    silent.plan = plan
    assert essay.findings(silent, statistics.all_comparisons(found)) == []
    assert essay.as_text(silent) == ""


def test_a_claim_without_its_runs_is_left_out(found):
    regression = [
        task for task in statistics.all_comparisons(found) if task.runs.task.iloc[0] == "regression"
    ]
    assert [one.name[:9] for one in essay.findings(found, regression)] == ["finding_1"]
    assert essay.findings(found, []) == []
