"""What is declared binds: margins are resolved once, and what was seen before is said."""

from __future__ import annotations

import contextlib
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from configs import IN_THIS_PROCESS, TINY, write_experiment
from plans import write_plan

from lossbench import cli, records, statistics, store
from lossbench.report import methods, objections, page, summary, words
from lossbench.sweep.inventory import record_of
from lossbench.sweep.siblings import seen_elsewhere

SHARE = TINY.replace("tiny", "share").replace("looks: [3]", "looks: [6, 8]")
SHARE = SHARE.replace("regression: 0.02", "regression: 3% of error")
OTHER = "hydra.sweeper.declare.margin.regression=0.5"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("binding")
    write_experiment(folder, "share", SHARE)
    with contextlib.chdir(folder):
        yield folder


def ask(*typed):
    line = ["--config-dir", "conf", "experiment=share", "report=none", IN_THIS_PROCESS]
    return cli.main([*line, *typed])


@pytest.fixture(scope="module")
def first(place):
    assert ask() == cli.DONE
    return records.load(place / "runs" / "share")


@pytest.fixture(scope="module")
def renamed(first, place):
    """The same runs under another name, with another margin."""
    assert ask("name=renamed", OTHER) == cli.DONE
    return records.load(place / "runs" / "renamed")


# ---- margins -------------------------------------------------------------------------------------


def test_a_share_is_resolved_from_validation_of_the_first_look_at_the_references_choice(first):
    evals = first.evals[(first.evals.metric == "rmse") & (first.evals.step == 4)]
    mine = evals[(evals.split == "validation") & (evals.loss == "mse") & (evals.seed < 6)]
    of_chosen = min((rows for _, rows in mine.groupby("lr").value), key=lambda rows: rows.mean())
    error = of_chosen.median()
    (own, *_) = statistics.Verdicts(first).comparisons
    assert own.margin.value == pytest.approx(0.03 * error, rel=5e-3)  # three digits
    assert {*own.paired.margin} == {own.margin.value}
    assert words.verdicts_of(own).margin_share.tolist() == pytest.approx([own.margin.value / error])


def test_a_margin_is_the_same_at_every_look(first):
    assert {*first.runs.seed} == {*range(8)}  # a comparison went on
    margins = {statistics.Verdicts(first, seeds=n).mains[0].margin.value for n in (6, 8, 0)}
    assert len(margins) == 1


def test_what_is_declared_and_hashed_is_the_text(first):
    assert first.plan["declarations"][0]["declared"]["margin"]["regression"] == "3% of error"


def test_terminal_and_methods_tell_a_margin_both_ways(first):
    told = words.margin_text([statistics.Verdicts(first).comparisons[0].margin])
    assert told.endswith("(3 % of the error of mse on validation)")
    assert f"margin ±{told}" in " ".join(summary.table(first).split())
    (own, *_) = statistics.Verdicts(first).comparisons
    assert f"Differences below {told} in rmse" in " ".join(methods.paragraph(first, [own]))


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("hydra.sweeper.declare.margin.regression=10%", "use a number, 0 or more"),
        ("hydra.sweeper.declare.margin.regression='-5% of error'", "like '10% of error'"),
        ("hydra.sweeper.declare.margin.regression=-0.1", "margin of regression is -0.1"),
        ("hydra.sweeper.declare.margin.regression=inf", "margin of regression is inf"),
        ("hydra.sweeper.candidates.extend=-1", "candidates.extend is -1: use a whole number"),
        ("hydra.sweeper.candidates.extend=1.5", "candidates.extend is 1.5: use a whole number"),
    ],
)
def test_a_margin_or_a_growth_that_cannot_be_is_refused(place, capsys, typed, message):
    assert ask("name=wrong", typed) == cli.MISTAKE
    assert message in capsys.readouterr().err
    assert not (place / "runs" / "wrong").exists()


def test_a_share_of_an_error_that_validation_does_not_have_is_refused(place, capsys):
    typed = ["data=finite_support", "loss=cross_entropy,brier"]
    typed += ["+hydra.sweeper.declare.select.classification=accuracy"]
    typed += ["hydra.sweeper.declare.primary.classification=tv_bayes"]
    typed += ["hydra.sweeper.declare.margin.classification='10% of error'"]
    assert ask("name=wrong", *typed) == cli.MISTAKE
    assert "tv_bayes is not measured on validation: declare margin: {" in capsys.readouterr().err


# ---- what was seen before ------------------------------------------------------------------------


def test_runs_that_were_seen_under_another_declaration_are_said_and_explore(first, renamed):
    (own, *_) = statistics.Verdicts(renamed).comparisons
    sha = first.plan["declarations"][0]["sha256"]
    assert {*own.seen.declaration} == {sha}
    assert own.paired.exploratory.all()
    said = f"seen under another declaration ({sha[:16]}, sweep share) before this one was made"
    assert f"{len(own.seen)} of {len(own.runs)} runs had been {said}" in " ".join(
        summary.table(renamed).split()
    )
    assert said in " ".join(methods.paragraph(renamed, [own]))
    assert "Added after the declaration" not in summary.table(renamed)
    against = objections.of_sweep(renamed, [own])
    assert any(said in one for one in against)
    assert not any("not declared before the first run" in one for one in against)


def test_a_report_of_a_sweep_whose_runs_were_seen_is_no_strict_one(renamed, monkeypatch, capsys):
    monkeypatch.setattr(page, "write", lambda *_, **__: renamed.sweep_dir)
    monkeypatch.setattr(objections, "of_sweep", strict_on_seen(objections.of_sweep))
    assert cli.main(["report", str(renamed.sweep_dir), "--strict"]) == cli.SOME_FAILED
    assert "had been seen" in capsys.readouterr().out


def strict_on_seen(of_sweep):
    """Only what is said of runs that were seen: so small a sweep has other faults too."""
    return lambda *given: [one for one in of_sweep(*given) if "had been seen" in one]


def test_the_sweep_that_was_first_is_not_said_to_be_seen_when_it_goes_on(first, renamed, place):
    shutil.rmtree(place / "runs" / "share" / "packs")  # its runs are trained again
    assert ask("loss=mse,mae,huber") == cli.DONE
    again = records.load(place / "runs" / "share")
    assert again.planned.seen_under.isna().all()


def test_the_same_declaration_under_another_name_and_other_seeds_are_not_said(first, place):
    assert ask("name=same") == cli.DONE
    assert ask("name=later", OTHER, "hydra.sweeper.first_seed=100") == cli.DONE
    for name in ("same", "later"):
        assert records.load(place / "runs" / name).planned.seen_under.isna().all()


def test_what_was_said_of_a_run_stays(renamed, place):
    before = (renamed.sweep_dir / "sweep.json").read_bytes()
    others = [folder for folder in (place / "runs").iterdir() if folder.name != "renamed"]
    for folder in others:
        shutil.move(folder, place / folder.name)
    assert ask("name=renamed", OTHER) == cli.DONE
    for folder in others:
        shutil.move(place / folder.name, folder)
    assert (renamed.sweep_dir / "sweep.json").read_bytes() == before


RULES = {"primary": {"regression": "rmse"}, "margin": {"regression": 0.02}, "looks": [6]}


def sibling(folder, planned, statuses, *, declared=RULES, seen_under=None, losses=("mse",)):
    """A sweep with a plan and one commit record."""
    sha = store.sha256(store.to_json(declared))
    facts = {"declaration": sha, "data": "toy", "model": "linear", "task": "regression"}
    facts |= {"seen_under": seen_under} if seen_under else {}
    runs = [
        {"run_id": f"{run_id}{loss if loss != 'mse' else ''}", **facts, "loss": loss}
        for run_id in planned
        for loss in losses
    ]
    declarations = [{"sha256": sha, "declared": declared, "runs_before": 0}]
    write_plan(folder, {"declarations": declarations}, runs)
    members = {run_id: {"status": status, "reason": ""} for run_id, status in statuses.items()}
    store.commit(folder / "packs" / "0123456789ab", {}, record_of(members, is_finished=True))
    return sha


def seen(folder, run_ids, *, sha="e" * 64, declared=None, before=()):
    """What was seen of runs of mse that are planned now by these rules, after those before."""
    named = {
        key: SimpleNamespace(name=name)
        for key, name in (("data", "toy"), ("model", "linear"), ("loss", "mse"))
    }
    runs = [SimpleNamespace(run_id=run_id, **named) for run_id in run_ids]
    declared = RULES | {"margin": {"regression": 0.1}} if declared is None else declared
    planned = records.planned([{"data": "toy", "model": "linear", "loss": loss} for loss in before])
    return seen_elsewhere(folder / "mine", runs, planned=planned, declarations={sha: declared})


def test_only_runs_with_a_result_were_seen_and_what_cannot_be_read_is_skipped(tmp_path):
    sha = sibling(tmp_path / "one", "abc", {"a": "done", "b": "failed"})
    sibling(tmp_path / "undone", "x", {"x": "missing"})
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "sweep.json").write_text("{")
    assert seen(tmp_path, "abcx") == {"a": {"seen_under": sha, "seen_in": "one"}}


def test_what_was_judged_by_the_same_rules_was_not_seen_under_others(tmp_path):
    sibling(tmp_path / "one", "a", {"a": "done"})
    more = RULES | {"losses": ["mse", "mae"], "margin": {"regression": 0.02, "digits": 0.01}}
    assert seen(tmp_path, "a", declared=RULES) == seen(tmp_path, "a", declared=more) == {}
    for key, value in (("looks", [6, 9]), ("margin", {"toy": 0.3, "regression": 0.02})):
        assert seen(tmp_path, "a", declared=RULES | {key: value})


def test_other_questions_of_runs_judged_by_the_same_rules_came_after_a_look(tmp_path):
    sibling(tmp_path / "one", "a", {"a": "done"})
    finding = [{"finding": "mse wins", "loss": "mse"}]
    for asked in ({"published": finding}, {"interactions": {"steps": "100"}}):
        assert seen(tmp_path, "a", declared=RULES | asked) == {"a": {"asked_in": "one"}}
    other = RULES | {"published": finding, "looks": [9]}
    assert "seen_under" in seen(tmp_path, "a", declared=other)["a"]


def test_a_finding_that_is_declared_after_its_runs_were_trained_elsewhere_explores(
    first, place, tmp_path
):
    shutil.copytree(place / "conf", tmp_path / "conf")
    shutil.copytree(first.sweep_dir, tmp_path / "runs" / "share")
    says = "{finding: late, source: nobody 2026, says: worse, loss: mae}"
    with contextlib.chdir(tmp_path):
        assert ask("name=asked", f"+hydra.sweeper.declare.published=[{says}]") == cli.DONE
        asked = records.load(tmp_path / "runs" / "asked")
    assert not statistics.Verdicts(asked).mains[0].paired.exploratory.any()
    assert {*statistics.published.judged_findings(statistics.Verdicts(asked)).judged} == {
        "exploratory"
    }


def test_a_loss_whose_code_is_edited_after_a_look_still_counts_among_the_comparisons(first):
    runs = first.runs.assign(context="c")
    (sha,) = (entry["sha256"] for entry in first.plan["declarations"])
    planned = first.planned
    edited = planned.assign(declaration=np.where(planned.loss == "mae", "f" * 64, sha))
    plan = records.Plan(first.plan, edited)
    assert statistics.declared.declared_in_context(plan, runs) == {"mse", "mae"}
    assert statistics.declared.declared_losses(plan, runs) == ["mse"]


def test_dropping_a_loss_after_a_look_is_another_family(tmp_path):
    sibling(tmp_path / "one", "a", {"a": "done"}, losses=("mse", "mae"))
    assert seen(tmp_path, "a", declared=RULES)


def test_a_loss_that_is_settled_at_a_later_look_is_not_dropped(tmp_path):
    sibling(tmp_path / "one", "a", {"a": "done"}, losses=("mse", "mae"))
    assert seen(tmp_path, "a", declared=RULES, before=("mse", "mae")) == {}


def test_a_sibling_that_came_after_this_declaration_is_not_counted(tmp_path):
    sibling(tmp_path / "later", "a", {"a": "done"}, seen_under="e" * 64)
    assert seen(tmp_path, "a") == {}
    assert seen(tmp_path, "a", sha="f" * 64) != {}


def test_runs_trained_without_a_declaration_are_said_to_be_undeclared():
    seen = pd.DataFrame([("mse", "own", "")], columns=["loss", "sweep", "declaration"])
    assert "(undeclared, sweep own)" in words.seen_text(seen, count=2)
