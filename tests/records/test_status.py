"""How far a sweep is, seen from outside while somebody trains."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
from configs import make_run
from interrupted import sweep_in
from sweep_on_disk import build, plan_runs, with_status

from lossbench import cli, records, store
from lossbench.records import status
from lossbench.sweep import planning
from lossbench.sweep.inventory import PLANNED, Inventory, record_of

DONE = [make_run(loss=loss, steps=8) for loss in ("mse", "mae")]
LEFT = [make_run(loss=loss, seed=1, steps=8) for loss in ("mse", "mae", "huber")]


@pytest.fixture
def begun(tmp_path):
    """Two runs are done and three are planned, in a pack each; the packs."""
    sweep_in(tmp_path).run(DONE)
    planning.plan_runs(tmp_path, LEFT, name="begun", command="lossbench", recorded=2)
    return Inventory(tmp_path).open_packs(LEFT, pack_size=1, allowed={})


def test_it_says_who_trains_what_while_it_is_trained(tmp_path, begun):
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with begun[0].lease():
        before[begun[0].folder / "lock"] = (begun[0].folder / "lock").stat().st_mtime_ns
        found = status.status(tmp_path)
    assert found.runs == {"done": 2, "diverged": 0, "failed": 0, "missing": 3}
    first, *others = found.packs
    assert (first.pack_id, first.process) == (begun[0].pack_id, str(os.getpid()))
    assert 0 <= first.seconds < 60
    assert [pack.process for pack in others] == ["", ""]
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path in before}
    before[begun[0].folder] = after[begun[0].folder]  # the lease made its lock there
    assert after == before
    text = "\n".join(status.lines(found))
    assert f"training  {begun[0].pack_id}  1 runs  diabetes: " in text
    assert (
        f"no checkpoint yet, by process {os.getpid()} for {records.duration(first.seconds)}" in text
    )
    assert text.count("waiting ") == 2


def test_the_time_that_is_left_is_what_finished_runs_took(tmp_path, begun):
    each = records.load(tmp_path).runs.query("status == 'done'").train_seconds.astype(float).mean()
    assert status.status(tmp_path).seconds_left == pytest.approx(3 * each)
    with begun[0].lease(), begun[1].lease():
        assert status.status(tmp_path).seconds_left == pytest.approx(1.5 * each)
        # A quarter is left of one of them.
        store.commit(begun[0].folder, {}, {**begun[0].record, "step": 6})
        assert status.status(tmp_path).seconds_left == pytest.approx(2.25 / 2 * each)


def test_nothing_is_foretold_of_data_that_no_run_has_finished(tmp_path, begun):
    other = make_run(data="digits", model="linear", loss="cross_entropy")
    planning.plan_runs(tmp_path, [other], name="begun", command="lossbench", recorded=2)
    found = status.status(tmp_path)
    assert found.seconds_left is None
    assert "is not known before a run of each data set has finished" in status.lines(found)[-2]


def test_a_settled_sweep_has_nothing_left_and_a_failed_run_says_why(tmp_path, begun):
    sweep_in(tmp_path).run(LEFT)
    assert status.lines(status.status(tmp_path))[-1].startswith("Nothing of what is planned")
    wrong = dataclasses.replace(
        status.status(tmp_path),
        failed=({"run_id": "ab", "data": "d", "loss": "l", "lr": 0.1, "seed": 0, "reason": "so"},),
    )
    assert "failed    ab  d l lr=0.1 seed=0: so" in status.lines(wrong)


@pytest.mark.parametrize("is_declared", [False, True])
def test_an_experiment_that_is_not_settled_may_go_on(tmp_path, is_declared):
    declaration = {"losses": ["mse"]} if is_declared else None
    sweep_in(tmp_path).run(LEFT, declaration=declaration)
    found = status.status(tmp_path)
    assert found.may_go_on == is_declared
    (tmp_path / status.SETTLED).touch()
    assert not status.status(tmp_path).may_go_on
    assert ("whether more seeds or rates" in "".join(status.lines(found))) == is_declared


def test_a_failed_run_that_is_tried_again_is_left_to_train(tmp_path):
    folder = build(tmp_path / "again", with_status(plan_runs(), "failed", count=1, loss="mse"))
    text = status.lines(status.status(folder))
    assert "Nothing of what is planned is left to train." in text
    (failed,) = records.load(folder).runs.query("status == 'failed'").run_id
    store.commit(folder / "packs" / "0123456789abcdef", {}, record_of({failed: PLANNED}))
    found = status.status(folder)
    assert [pack.runs for pack in found.packs] == [1]
    assert status.lines(found)[-1].startswith("Nothing trains now")


def test_a_pack_that_cannot_be_read_hides_no_other(tmp_path, begun):
    path = begun[1].folder / "commit.json"
    path.write_bytes(path.read_bytes()[:-20])
    # Loading refuses it too, in the same words, so there is nothing else to say.
    with pytest.raises(store.StoreError, match=str(begun[1].folder)):
        status.status(tmp_path)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (9.96, "10 s"),
        (119, "119 s"),
        (3599, "60 min"),
        (8100, "2.2 h"),
        (90_000, "25.0 h"),
        (300_000, "3.5 d"),
    ],
)
def test_a_time_is_said_in_the_unit_that_matters(seconds, text):
    assert records.duration(seconds) == text


def test_the_command_says_it_to_people_and_to_programs(tmp_path, begun, capsys):
    assert cli.main(["status", str(tmp_path)]) == cli.DONE
    assert capsys.readouterr().out.count("waiting ") == 3
    assert cli.main(["status", str(tmp_path), "--json"]) == cli.DONE
    found = json.loads(capsys.readouterr().out)
    assert found["runs"] == {"done": 2, "diverged": 0, "failed": 0, "missing": 3}
    page = (Path(__file__).parents[2] / "docs" / "json.md").read_text().partition("## How far")[2]
    assert all(f"`{field}`" in page for field in (*found, *found["packs"][0]))
