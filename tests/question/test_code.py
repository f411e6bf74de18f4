"""Who a run is must not change with how it is worked out: records are found by it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from configs import make_run
from planned import planned

from lossbench import store
from lossbench.question import ConfigError, packs, varied
from lossbench.question.vary import checked, vary


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Those of the essay's first look, as if all code were the same for ever."""
    found = planned("experiment=essay", "size=smoke", "hydra.launcher.workers=1").first
    return [replace(run, source_sha="code", shared_sha="code") for run in found]


def sha(texts):
    return store.sha256("\n".join(texts).encode())


def test_the_runs_and_packs_of_the_essay_have_the_names_that_they_had(runs):
    grouped = packs.group(runs, pack_size=128)
    assert sha(run.run_id for run in runs) == RUN_IDS
    assert sha(pack.pack_id for pack in grouped) == PACK_IDS
    assert sha(run.run_id for pack in grouped for run in pack.runs) == MEMBERS


RUN_IDS = "b56d595932fff015204e1d6e36daf437560d0794fc8c31ed5f77fa9fb73595b9"
PACK_IDS = "611f4785044d920a124b1d42fd8f12fc59ab8c8cc36a9e3a7841357c38f2e930"
MEMBERS = "66d0766c5c3d48be834b3f4d27c1090daaaf73371f69d7344668f039d0ab2e86"
"""From before plans had parts: ids in the order of the experiment, packs in theirs, and the
members of all packs one after the other."""


@pytest.mark.parametrize(
    "values", [{"seed": 7}, {"optimizer.lr": 1}, {"optimizer.lr": 3e-4, "seed": 0}]
)
def test_a_run_at_another_seed_and_rate_is_what_it_would_be_if_all_of_it_were_typed(values):
    run = make_run(loss="huber", loss__params={"delta": 0.5}, seed=3)
    at_once, typed = varied(run, values), checked(vary(run, values))
    assert at_once == typed
    assert at_once.run_id == typed.run_id
    assert repr(at_once) == repr(typed)


def test_a_rate_or_seed_that_no_run_may_have_is_refused_as_if_it_were_typed():
    for values in ({"optimizer.lr": -1.0}, {"optimizer.lr": float("nan")}, {"seed": -1}):
        with pytest.raises(ConfigError, match=str(next(iter(values.values())))):
            varied(make_run(), values)
