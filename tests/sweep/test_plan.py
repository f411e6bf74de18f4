"""The plan: what supersedes what, what counts as declared, what is refused."""

from __future__ import annotations

import pandas as pd
import pytest
from configs import make_run

from lossbench import statistics
from lossbench.report import summary
from lossbench.runs import ConfigError
from lossbench.sweep import plan

DECLARED = {"primary": {"regression": "rmse"}, "margin": {"regression": 0.02}, "cells": ["a"]}


def extended(old, runs, declaration=None):
    return plan.extended(old, runs, name="n", command="c", declaration=declaration)


def at_rate(lr, seeds, **kwargs):
    return [make_run(optimizer__lr=lr, seed=seed, loss=kwargs.get("loss", "mse")) for seed in seeds]


def rates(found):
    return sorted({facts["lr"] for facts in found["planned"].values()})


def test_other_rates_and_fewer_seeds_supersede_nothing():
    first = extended(plan.EMPTY, at_rate(0.1, range(20)))
    second = extended(first, at_rate(0.2, range(10)))
    assert rates(second) == [0.1, 0.2]
    assert len(second["planned"]) == 30


def test_another_loss_supersedes_nothing():
    first = extended(plan.EMPTY, at_rate(0.1, range(3)))
    second = extended(first, at_rate(0.2, range(3), loss="mae"))
    assert rates(second) == [0.1, 0.2]


def test_edited_code_supersedes_the_old_run_of_the_same_rate_only(monkeypatch):
    runs = [make_run(optimizer__lr=lr) for lr in (0.1, 0.2)]
    first = extended(plan.EMPTY, runs)
    edited_code = {"source_sha": "edited", "shared_sha": "edited"}
    # As if the code on disk were edited.
    monkeypatch.setattr("lossbench.runs.source._code_shas", lambda *functions, facts: edited_code)
    (edited,) = [make_run(optimizer__lr=0.1)]
    second = extended(first, [edited])
    assert {*second["planned"]} == {edited.run_id, runs[1].run_id}


@pytest.mark.parametrize(
    "change",
    [
        {"margin": {"regression": 0.5}},
        {"primary": {"regression": "mae"}},
        {"select": {"regression": "mae"}},
        {"targets": {"regression": 0.1}},
        {"looks": [10, 20]},
        {"learning_rates": [0.1]},
    ],
)
def test_what_is_judged_cannot_change_after_the_first_declaration(change):
    first = extended(plan.EMPTY, at_rate(0.1, [0]), DECLARED)
    with pytest.raises(ConfigError, match="its own folder"):
        extended(first, at_rate(0.1, [1]), DECLARED | change)


def test_a_declared_sweep_takes_no_seed_by_hand_and_what_it_has_is_no_new_one():
    runs = at_rate(0.1, range(2))
    first = extended(plan.EMPTY, runs, DECLARED)
    assert extended(first, runs)["planned"] == first["planned"]
    with pytest.raises(ConfigError, match=r"n is a declared sweep, .* name=\.\.\."):
        extended(first, at_rate(0.1, [2]))


def declared(found, runs):
    frame = pd.DataFrame([{"run_id": run.run_id, "loss": run.loss.name} for run in runs])
    return statistics.comparisons.declared_losses(found, frame)


def test_runs_of_the_first_declaration_are_declared():
    runs = at_rate(0.1, range(3))
    assert declared(extended(plan.EMPTY, runs, DECLARED), runs) == ["mse"]


def test_a_declaration_made_after_the_first_runs_declares_nothing():
    runs = at_rate(0.1, range(3))
    found = extended(extended(plan.EMPTY, [make_run(seed=9)]), runs, DECLARED)
    assert declared(found, runs) == []


def test_deleting_the_plan_does_not_make_a_later_declaration_the_first():
    runs = at_rate(0.1, range(3))
    found = plan.extended(plan.EMPTY, runs, name="n", command="c", declaration=DECLARED, recorded=3)
    assert declared(found, runs) == []


def test_a_loss_added_later_is_exploratory_and_leaves_the_declared_ones_so():
    runs = at_rate(0.1, range(3))
    later = at_rate(0.2, range(3), loss="mae")
    found = extended(extended(plan.EMPTY, runs, DECLARED), later, DECLARED | {"cells": ["b"]})
    assert declared(found, [*runs, *later]) == ["mse"]


def test_a_table_says_which_of_its_losses_are_the_same():
    runs = [make_run(loss=loss) for loss in ("huber", "smooth_l1", "mse")]
    found = extended(plan.EMPTY, runs)
    sentences = summary._duplicates(["huber", "mse", "smooth_l1"], found)
    assert sentences == ["smooth_l1 = huber"]
    assert summary._duplicates(["huber", "mse"], found) == []


def test_a_loss_at_other_parameters_is_no_duplicate():
    runs = [make_run(loss="huber", loss__params={"delta": 0.5}), make_run(loss="smooth_l1")]
    found = extended(plan.EMPTY, runs)
    assert found["losses"]["huber"]["duplicates"] == {}
