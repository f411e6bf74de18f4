"""The plan: what supersedes what, what counts as declared, what is refused."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from configs import make_run
from plans import write_plan

from lossbench import records, statistics, store
from lossbench.question import ConfigError
from lossbench.records import EMPTY_PLAN
from lossbench.report import summary
from lossbench.sweep import planning

FACTS = {"name": "n", "command": "c", "question": ""}
DECLARED = {"primary": {"regression": "rmse"}, "margin": {"regression": 0.02}, "cells": ["a"]}


def extended(old, runs, declaration=None):
    return planning.extended(old, runs, FACTS, declaration=declaration)


def at_rate(lr, seeds, **kwargs):
    return [make_run(optimizer__lr=lr, seed=seed, loss=kwargs.get("loss", "mse")) for seed in seeds]


def rates(found):
    return sorted({*found.runs.lr})


def test_other_rates_and_fewer_seeds_supersede_nothing():
    first = extended(EMPTY_PLAN, at_rate(0.1, range(20)))
    second = extended(first, at_rate(0.2, range(10)))
    assert rates(second) == [0.1, 0.2]
    assert len(second.runs) == 30


def test_another_loss_supersedes_nothing():
    first = extended(EMPTY_PLAN, at_rate(0.1, range(3)))
    second = extended(first, at_rate(0.2, range(3), loss="mae"))
    assert rates(second) == [0.1, 0.2]


def test_edited_code_supersedes_the_old_run_of_the_same_rate_only(monkeypatch):
    runs = [make_run(optimizer__lr=lr) for lr in (0.1, 0.2)]
    first = extended(EMPTY_PLAN, runs)
    edited_code = {"source_sha": "edited", "shared_sha": "edited"}
    # As if the code on disk were edited.
    monkeypatch.setattr(
        "lossbench.question.code._code_shas", lambda *functions, **facts: edited_code
    )
    (edited,) = [make_run(optimizer__lr=0.1)]
    second = extended(first, [edited])
    assert {*second.runs.index} == {edited.run_id, runs[1].run_id}


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
    first = extended(EMPTY_PLAN, at_rate(0.1, [0]), DECLARED)
    with pytest.raises(ConfigError, match="its own folder"):
        extended(first, at_rate(0.1, [1]), DECLARED | change)


def test_a_declared_sweep_takes_no_seed_by_hand_and_what_it_has_is_no_new_one():
    runs = at_rate(0.1, range(2))
    first = extended(EMPTY_PLAN, runs, DECLARED)
    pd.testing.assert_frame_equal(extended(first, runs).runs, first.runs)
    with pytest.raises(ConfigError, match=r"n is a declared sweep, .* name=\.\.\."):
        extended(first, at_rate(0.1, [2]))


def declared(found, runs):
    frame = pd.DataFrame([{"run_id": run.run_id, "loss": run.loss.name} for run in runs])
    return statistics.declared.declared_losses(found, frame)


def test_runs_of_the_first_declaration_are_declared():
    runs = at_rate(0.1, range(3))
    assert declared(extended(EMPTY_PLAN, runs, DECLARED), runs) == ["mse"]


def test_a_declaration_made_after_the_first_runs_declares_nothing():
    runs = at_rate(0.1, range(3))
    found = extended(extended(EMPTY_PLAN, [make_run(seed=9)]), runs, DECLARED)
    assert declared(found, runs) == []


def test_deleting_the_plan_does_not_make_a_later_declaration_the_first():
    runs = at_rate(0.1, range(3))
    found = planning.extended(EMPTY_PLAN, runs, FACTS, declaration=DECLARED, recorded=3)
    assert declared(found, runs) == []


def test_a_loss_added_later_is_exploratory_and_leaves_the_declared_ones_so():
    runs = at_rate(0.1, range(3))
    later = at_rate(0.2, range(3), loss="mae")
    found = extended(extended(EMPTY_PLAN, runs, DECLARED), later, DECLARED | {"cells": ["b"]})
    assert declared(found, [*runs, *later]) == ["mse"]


def test_a_table_says_which_of_its_losses_are_the_same():
    runs = [make_run(loss=loss) for loss in ("huber", "smooth_l1", "mse")]
    found = extended(EMPTY_PLAN, runs)
    sentences = summary._duplicates(["huber", "mse", "smooth_l1"], found.facts)
    assert sentences == ["smooth_l1 = huber"]
    assert summary._duplicates(["huber", "mse"], found.facts) == []


def test_a_loss_at_other_parameters_is_no_duplicate():
    runs = [make_run(loss="huber", loss__params={"delta": 0.5}), make_run(loss="smooth_l1")]
    found = extended(EMPTY_PLAN, runs)
    assert found.facts["losses"]["huber"]["duplicates"] == {}


# ---- on disk -------------------------------------------------------------------------------------


def write(folder, runs, **how):
    planning.plan_runs(folder, runs, name="n", command="c", recorded=0, **how)


def parts(folder):
    return {path.name: path.read_bytes() for path in folder.glob("plan-*.parquet")}


def test_a_launch_adds_one_part_and_touches_none_of_before(tmp_path):
    first, second = at_rate(0.1, range(20)), at_rate(0.2, range(10))
    write(tmp_path, first)
    before = parts(tmp_path)
    write(tmp_path, [*second, *first])
    after = parts(tmp_path)
    assert (len(before), len(after)) == (1, 2)
    assert after.items() >= before.items()
    found = records.read_plan(tmp_path)
    assert found.runs.index.tolist() == [run.run_id for run in (*first, *second)]
    in_memory = extended(extended(EMPTY_PLAN, first), second)
    pd.testing.assert_frame_equal(found.runs, in_memory.runs)


def test_a_launch_that_asks_for_what_is_planned_writes_nothing(tmp_path):
    runs = at_rate(0.1, range(20))
    write(tmp_path, runs)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    write(tmp_path, runs[3:9])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_where_code_was_edited_one_part_takes_the_place_of_all(tmp_path, monkeypatch):
    runs = [make_run(optimizer__lr=lr) for lr in (0.1, 0.2)]
    for run in runs:
        write(tmp_path, [run])
    edited_code = {"source_sha": "edited", "shared_sha": "edited"}
    # As if the code on disk were edited.
    monkeypatch.setattr(
        "lossbench.question.code._code_shas", lambda *functions, **facts: edited_code
    )
    edited = make_run(optimizer__lr=0.1)
    before = parts(tmp_path)
    write(tmp_path, [edited])
    assert parts(tmp_path).items() > before.items()  # who reads now finds what sweep.json listed
    listed = [path.name for path in records.files_of(tmp_path, records.read_plan(tmp_path).facts)]
    assert len({*listed} & {*parts(tmp_path)}) == 1
    assert not {*listed} & {*before}
    assert records.read_plan(tmp_path).runs.index.tolist() == [runs[1].run_id, edited.run_id]


def test_a_part_that_no_plan_names_is_never_read_and_gone_with_the_next_launch(
    tmp_path, monkeypatch
):
    first, second = at_rate(0.1, range(3)), at_rate(0.2, range(3))
    write(tmp_path, first)
    with monkeypatch.context() as patch:
        # A crash between a part and the plan that would name it cannot be timed.
        patch.setattr(store, "sealed", lambda record: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write(tmp_path, second)
    assert len(parts(tmp_path)) == 2
    assert len(records.read_plan(tmp_path).runs) == 3
    (tmp_path / "plan-torn.parquet").write_bytes(b"torn")
    write(tmp_path, at_rate(0.3, range(4)))
    assert len(parts(tmp_path)) == 2
    assert rates(records.read_plan(tmp_path)) == [0.1, 0.3]


def test_a_part_that_is_missing_or_altered_is_refused_with_the_cure(tmp_path):
    write(tmp_path, at_rate(0.1, range(3)))
    (path,) = tmp_path.glob("plan-*.parquet")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    told = r"plan-\w+\.parquet: .*delete .*sweep\.json and give.*exploratory"
    with pytest.raises(store.StoreError, match=told):
        records.read_plan(tmp_path)
    path.unlink()
    with pytest.raises(store.StoreError, match=r"plan-\w+\.parquet: No such file"):
        records.read_plan(tmp_path)


def test_what_is_no_part_of_a_plan_is_refused_though_its_sha256_is_right(tmp_path):
    write_plan(tmp_path, {}, [])
    facts = records.read_plan(tmp_path).facts
    facts["parts"] = [store.sha256(b"not parquet")]
    records.path_of(tmp_path, "plan", facts["parts"][0]).write_bytes(b"not parquet")
    store.write(tmp_path / "sweep.json", store.sealed(facts))
    with pytest.raises(
        store.StoreError, match=r"plan-\w+\.parquet: not a Parquet file of .* delete .*sweep\.json"
    ):
        records.read_plan(tmp_path)


@pytest.mark.parametrize("parts", [["../../elsewhere"], {"a": "b"}, [3], None])
def test_a_plan_lists_its_parts_by_sha256_or_is_refused(tmp_path, parts):
    write_plan(tmp_path, {}, [])
    facts = records.read_plan(tmp_path).facts | {"parts": parts}
    store.write(tmp_path / "sweep.json", store.sealed(facts))
    with pytest.raises(store.StoreError, match="not a plan of this version of lossbench"):
        records.read_plan(tmp_path)


def test_the_shapes_of_losses_are_drawn_again_where_their_file_is_damaged(tmp_path):
    runs = at_rate(0.1, range(3))
    write(tmp_path, runs)
    (path,) = tmp_path.glob("curves-*.parquet")
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    write(tmp_path, runs)
    assert path.read_bytes() == content


def test_a_plan_of_before_parts_is_read_and_its_next_launch_divides_it(tmp_path):
    runs = at_rate(0.1, range(3))
    write(tmp_path, runs, declaration=DECLARED)
    new = records.read_plan(tmp_path)
    facts = {key: value for key, value in new.facts.items() if key not in ("parts", "curves_sha")}
    rows = new.runs.to_dict("index")
    facts["planned"] = {
        run_id: {key: value for key, value in row.items() if pd.notna(value)}
        | {key: json.loads(row[key]) for key in ("params", "tuned")}
        for run_id, row in rows.items()
    }
    for path in tmp_path.glob("plan-*.parquet"):
        path.unlink()
    store.write(tmp_path / "sweep.json", store.sealed(facts))
    old = records.read_plan(tmp_path)
    assert "parts" not in old.facts
    # Runs were in the order of their names.
    pd.testing.assert_frame_equal(old.runs, new.runs.sort_index())
    write(tmp_path, runs, declaration=DECLARED)
    again = records.read_plan(tmp_path)
    assert {**again.facts, "parts": []} == {**new.facts, "parts": []}
    pd.testing.assert_frame_equal(again.runs, new.runs.sort_index())
    assert declared(again, runs) == ["mse"]
