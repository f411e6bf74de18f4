"""docs/gallery.md: written from records, judged by them, and about experiments that exist."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from configs import TINY, make_run, write_experiment
from selection import one_in
from sweep_on_disk import CLASSIFICATION, build, plan_runs

import lossbench
from lossbench import cli, records, statistics
from lossbench.protocol import declaration
from lossbench.report import gallery
from lossbench.statistics import published

DOCS = Path(__file__).parents[2] / "docs"
NAMES = {path.stem for path in (lossbench.CONF / "experiment").glob("*.yaml")}


@pytest.fixture(scope="module")
def findings(essay_sweep):
    return published.judged_findings(records.load(essay_sweep)).set_index("finding")


def test_a_finding_is_judged_by_the_verdict_of_its_own_comparison(findings):
    row = findings.loc["as good"]
    assert (row.n, row.verdict, row.judged) == (6, "equivalent", "confirmed")
    assert row.low <= row.difference <= row.high
    row = findings.loc["of this set"]
    assert (row.metric, row.verdict, row.judged) == ("mae", "equivalent", "not confirmed")


def judged(says, *, verdict="not distinguishable", gain=(-1.0, 1.0), metric="accuracy", **facts):
    """What a comparison with an interval of the gain in margins, n = 10, makes of a finding."""
    sign = 1.0 if metric == "accuracy" else -1.0
    low, high = sorted(sign * 0.01 * end for end in gain)
    row = {"diverged": 0, "reference_diverged": 0, "pairs": 10, "exploratory": False, **facts}
    row |= {"verdict": verdict, "metric": metric, "margin": 0.01, "low": low, "high": high}
    return published.outcome(says, row)


INTERVALS = {  # ends of the gain in margins: what not_worse becomes
    (0.2, 3.0): "confirmed",
    (-0.5, 0.5): "confirmed",
    (-0.9, 4.0): "confirmed",  # settled for this finding, not distinguishable as a difference
    (-1.5, 0.5): "not distinguishable",
    (-3.0, -0.2): "not distinguishable",  # worse, but by less than the margin for all we know
    (-3.0, -1.2): "not confirmed",
}


@pytest.mark.parametrize("metric", ["accuracy", "ece"])
@pytest.mark.parametrize("gain", INTERVALS)
def test_not_worse_is_judged_by_its_interval_and_the_margin(gain, metric):
    assert judged("not_worse", gain=gain, metric=metric) == INTERVALS[gain]


@pytest.mark.parametrize(
    ("says", "verdict", "expected"),
    [
        ("better", "better", "confirmed"),
        ("better", "equivalent", "not confirmed"),
        ("better", "different but below the margin", "not confirmed"),
        ("better", "not distinguishable", "not distinguishable"),
        ("worse", "diverges", "confirmed"),
        ("worse", "both diverge", "not distinguishable"),
        ("worse", "better", "not confirmed"),
        *[(says, "incomplete", "not run") for says in ("better", "worse", "not_worse")],
        ("not_worse", "too few pairs", "not run"),
    ],
)
def test_a_verdict_makes_of_a_saying_what_it_is(says, verdict, expected):
    assert judged(says, verdict=verdict) == expected


def test_a_diverged_loss_is_worse_and_a_diverged_reference_proves_little():
    inside, below = (-0.5, 0.5), (-3.0, -2.0)
    assert judged("not_worse", gain=inside, diverged=1) == "not confirmed"
    assert judged("not_worse", gain=inside, diverged=1, reference_diverged=1) == UNSETTLED
    assert judged("not_worse", gain=below, reference_diverged=1) == UNSETTLED
    assert judged("not_worse", gain=inside, reference_diverged=9, pairs=1) == UNSETTLED


UNSETTLED = "not distinguishable"


@pytest.mark.parametrize("says", ["better", "worse", "not_worse"])
def test_a_loss_that_was_added_later_confirms_nothing(says):
    verdict = {"better": "better", "worse": "worse"}.get(says, "equivalent")
    assert judged(says, verdict=verdict, gain=(-0.5, 0.5)) == "confirmed"
    assert judged(says, verdict=verdict, gain=(-0.5, 0.5), exploratory=True) == "exploratory"


@pytest.fixture(scope="module")
def planned():
    """Runs of three losses of digits, without those of the other task."""
    return plan_runs({("digits", "mlp"): CLASSIFICATION})


def of_brier(runs, folder, *, declaration=True, **finding):
    """The one row of a finding about brier on accuracy, with its own margin, and its task."""
    facts = {
        "finding": "c",
        "source": "A 1999",
        "loss": "brier",
        "says": "not_worse",
        "margin": 0.5,
    }
    loaded = records.load(build(folder, runs, declaration=declaration, curves=False))
    (task,) = statistics.all_comparisons(loaded)
    (row,) = published.judged(facts | {"margin": 0.5} | finding, [task])
    return row, task


def test_a_finding_of_its_own_margin_has_the_interval_of_the_main_verdict(planned, tmp_path):
    row, task = of_brier(planned, tmp_path / "all")
    main = task.paired.set_index("loss").loc["brier"]
    assert main.comparisons == 2
    assert (row["low"], row["high"], row["judged"]) == (main.low, main.high, "confirmed")


def test_a_declared_loss_that_was_lost_narrows_no_interval_of_a_claim(planned, tmp_path):
    lost = [run for run in planned if (run.loss, run.stage) != ("mse_logits", "confirm")]
    row, task = of_brier(lost, tmp_path / "lost")
    whole, _ = of_brier(planned, tmp_path / "all")
    assert task.absent == ("mse_logits",)
    assert (row["low"], row["high"]) == (whole["low"], whole["high"])


def test_a_finding_about_runs_that_nobody_declared_is_exploratory(planned, tmp_path):
    row, _ = of_brier(planned, tmp_path / "later", declaration=False)
    assert (row["judged"], row["exploratory"]) == ("exploratory", True)


def test_a_lost_variant_is_counted_though_another_one_is_there(planned, tmp_path):
    def variants(gamma):
        brier = [run for run in planned if run.loss == "brier"]
        return [replace(run, params=(("gamma", gamma),)) for run in brier]

    lost = [run for run in variants(2.0) if run.stage == "tune"]
    others = [run for run in planned if run.loss != "brier"]
    row, task = of_brier(
        [*others, *variants(1.0), *lost], tmp_path / "lost", loss="brier(gamma=1.0)"
    )
    assert task.absent == ("brier(gamma=2.0)",)
    assert {*task.paired.comparisons} == {3}
    assert row["n"] == 8


@pytest.mark.parametrize("finding", ["of another set", "of a loss left out"])
def test_a_finding_about_what_was_not_run_is_not_judged(finding, findings):
    assert findings.loc[finding].judged == "not run"
    assert findings.loc[finding].n == 0


def test_no_verdict_confirms_a_saying_and_its_contrary():
    for verdict in {name for says in records.SAYINGS.values() for name in says}:
        assert {judged(says, verdict=verdict) for says in ("better", "worse")} != {"confirmed"}


def test_the_gallery_has_the_sweep_with_its_pictures_its_verdicts_and_its_findings(
    essay_sweep, tmp_path
):
    text = gallery.write(essay_sweep.parent, tmp_path).read_text()
    assert re.findall(r"^## (.+)$", text, re.M) == ["essay"]
    assert gallery.question("essay") in text
    pictures = re.findall(r"\]\((gallery/.+\.png)\)", text)
    assert pictures
    for picture in pictures:
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    loaded = records.load(essay_sweep)
    done = (loaded.runs.status == "done").sum()
    assert f"{len(loaded.runs)} runs: {done} done" in text
    task = statistics.main_comparison(loaded, "diabetes × linear")
    verdict = task.verdicts.set_index("loss").loc["mae"]
    assert f"| diabetes × linear | mae | {verdict.estimate:+.3g} [{verdict.low:+.3g}, " in text
    assert "rmse minus that of mse in standard deviations of the training target, lower" in text
    assert "**not run**" in text
    assert "| of this set | D 2002 | mae minus mse on diabetes × linear |" in text


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_question_is_found_in_the_header(name):
    assert len(gallery.question(name)) > 20


def test_docs_gallery_md_tells_of_experiments_that_exist_and_shows_pictures_that_exist():
    text = (DOCS / "gallery.md").read_text()
    assert {*re.findall(r"^## (.+)$", text, re.M)} <= NAMES
    shown = {*re.findall(r"\]\(gallery/(.+\.png)\)", text)}
    assert shown == {path.name for path in (DOCS / "gallery").glob("*.png")}


MAE = "{ finding: a, source: b, loss: mae, says: better"
BAD = {
    "sayz": "{ finding: a, source: b, loss: mae, sayz: better }",
    "lacks finding": "{ source: b, loss: mae, says: better }",
    "lacks source": "{ finding: a, loss: mae, says: better }",
    "lacks loss": "{ finding: a, source: b, says: better }",
    "lacks says": "{ finding: a, source: b, loss: mae }",
    "a margin, in the unit": MAE + ", metric: mae }",
    "'accuracy'": MAE + ", metric: accuracy, margin: 0 }",
    "'coverage_90'": MAE + ", metric: coverage_90, margin: 0 }",
    "'rmse_clean'": MAE + ", metric: rmse_clean, margin: 0 }",
    "'small'": MAE + ", margin: small }",
    "did you mean 'huber'": "{ finding: a, source: b, loss: hubber, says: better }",
    "'focl'": "{ finding: a, source: b, loss: mae, reference: focl, says: better }",
    "compares mse with mse": "{ finding: a, source: b, loss: mse, says: better }",
    "compares mae with mae": "{ finding: a, source: b, loss: mae, reference: mae, says: better }",
    "compares mae with brier": MAE + ", reference: brier }",
    "stands under `finding`": "{ claim: a, source: b, loss: mae, says: better }",
    "'datum'": MAE + ", where: { datum: digits } }",
    "'loss.params.a'": MAE + ", where: { loss.params.a: 1 } }",
    "'optimizer.lr'": MAE + ", where: { optimizer.lr: 1 } }",
    "'bettr'": "{ finding: a, source: b, loss: mae, says: bettr }",
    "'rmsee'": MAE + ", metric: rmsee, margin: 0 }",
    "'../x'": "{ finding: a, source: b, loss: ../x, says: better }",
}


@pytest.mark.parametrize("message", one_in(3, BAD))
def test_a_finding_that_could_not_be_judged_is_refused(message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_experiment(tmp_path, "tiny", f"{TINY}      published: [{BAD[message]}]\n")
    assert cli.main(["plan", "--config-dir", "conf", "experiment=tiny"]) == cli.MISTAKE
    assert message in capsys.readouterr().err


FACTORS = [
    *("data", "model", "optimizer", "schedule", "data.targets", "data.corruption.name"),
    *("data.corruption.params.rate", "model.params.widths", "optimizer.weight_decay", "init.from"),
    *("init.output_scale", "signal", "steps", "batch_size", "data.augmentation.name"),
]


def test_whatever_a_finding_may_name_is_found_in_a_recorded_configuration():
    noise = {"name": "symmetric", "params": {"rate": 0.2}}
    run = make_run(data="digits", loss="brier", data__corruption=noise)
    facts = statistics.factors(json.dumps(run.facts))
    for key in FACTORS:
        declaration._check_where({key: 1}, "where")
        name = f"{key}.name" if key in records.FACTORS else statistics.recorded(key)
        assert published.speaks_of({"where": {key: facts[name]}}, facts)
        assert not published.speaks_of({"where": {key: "another"}}, facts)
