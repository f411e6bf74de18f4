"""The parts of a difference, on frames whose parts are known."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from configs import make_run
from frames import frame
from scipy import stats

from lossbench import records, statistics
from lossbench.statistics.decomposition import DECOMPOSED, PARTS

SEEDS = 10


def runs(*, shift=0.0, lr=0.1, **more):
    """Runs of a reference and of a loss whose scale does 1, weighting 2 and the rest 4."""
    draw = np.random.default_rng(0)
    base = draw.normal(1.0, 0.3, SEEDS)
    noise = draw.normal(0, 0.01, (3, SEEDS))
    own = base + 7.0 + noise[0]
    values = {
        ("mse", "own"): base,
        ("mae", "own"): own,
        ("mae", "norm_matched"): own - 1.0 + noise[1],
        ("mae", "reweighted"): base + 2.0 + noise[2] + shift,
    }
    parts = [
        frame({loss: column}, signal=signal, lr=lr, **more)
        for (loss, signal), column in values.items()
    ]
    return pd.concat(parts, ignore_index=True), values


def parts_of(table, loss="mae"):
    return table[table.loss == loss].set_index("part")


def test_each_part_is_the_paired_t_interval_of_what_one_replacement_does():
    full, values = runs()
    table = statistics.decomposition(full, metric="rmse", reference="mse", confidence=0.9)
    assert list(table.columns) == DECOMPOSED
    found = parts_of(table)
    assert [*found.index] == [*PARTS]
    assert found.value.round(1).to_dict() == {"total": 7, "scale": 1, "weighting": 2, "rest": 4}
    base, own = values["mse", "own"], values["mae", "own"]
    pairs = {
        "total": (own, base),
        "scale": (own, values["mae", "norm_matched"]),
        "weighting": (values["mae", "reweighted"], base),
    }
    for part, (one, other) in pairs.items():
        expected = stats.ttest_rel(one, other).confidence_interval(0.9)
        assert (found.low[part], found.high[part]) == pytest.approx(tuple(expected), rel=1e-9)
        assert found.differences[part] == pytest.approx(one - other)
    assert set(table.n) == {SEEDS}
    assert set(table.left_out) == {0}


def test_the_parts_sum_to_the_difference_seed_by_seed():
    found = parts_of(statistics.decomposition(runs()[0], metric="rmse", reference="mse"))
    inner = [np.array(found.differences[part]) for part in ("scale", "weighting", "rest")]
    np.testing.assert_allclose(sum(inner), found.differences["total"], rtol=1e-12)


@pytest.mark.parametrize("signal", records.SIGNALS)
def test_a_seed_in_which_one_run_did_not_survive_is_left_out_of_all_parts(signal):
    full, _ = runs()
    lost = (full.loss == "mae") & (full.signal == signal) & (full.seed == 3)
    full.loc[lost, ["rmse", "status"]] = [np.nan, "diverged"]
    table = statistics.decomposition(full, metric="rmse", reference="mse")
    assert set(table.n) == {SEEDS - 1}
    assert set(table.left_out) == {1}


def test_each_learning_rate_is_decomposed_by_itself():
    full = pd.concat([runs()[0], runs(lr=0.5, shift=1.0)[0]], ignore_index=True)
    table = statistics.decomposition(full, metric="rmse", reference="mse")
    weighting = table[table.part == "weighting"].set_index("lr").value
    assert weighting.round(1).to_dict() == {0.1: 2.0, 0.5: 3.0}
    alone = full[(full.loss == "mse") | (full.lr == 0.5)]
    assert {*statistics.decomposition(alone, metric="rmse", reference="mse").lr} == {0.5}


@pytest.mark.parametrize("signal", records.SIGNALS)
def test_a_loss_without_one_of_the_signals_has_no_parts(signal):
    full, _ = runs()
    some = full[(full.loss == "mse") | (full.signal != signal)]
    table = statistics.decomposition(some, metric="rmse", reference="mse")
    assert table.empty
    assert list(table.columns) == DECOMPOSED


def test_runs_that_did_not_start_equal_are_refused_whatever_drove_them():
    full, _ = runs()
    odd = (full.signal == "reweighted") & (full.seed == 3)
    full.loc[odd, "batch_sha"] = "else"
    with pytest.raises(ValueError, match=r"seed 3 .* batch_sha differs .* mae \(reweighted\)"):
        statistics.decomposition(full, metric="rmse", reference="mse")


def test_without_signals_the_cure_is_told():
    with pytest.raises(ValueError, match=r"placed\(runs, tuned=\['signal'\]\)"):
        statistics.decomposition(frame({"mse": [1.0]}), metric="rmse", reference="mse")


def test_placed_runs_of_all_signals_share_their_context_and_keep_their_signal():
    made = [make_run(loss=loss, signal=s) for loss in ("mse", "mae") for s in records.SIGNALS]
    table = pd.DataFrame(
        {
            "run_id": [run.run_id for run in made],
            "config": [json.dumps(run.facts) for run in made],
            "data": "diabetes",
            "model": "mlp",
            "optimizer": "sgd",
            "loss": [run.loss.name for run in made],
        }
    )
    found = statistics.placed(table, tuned=["signal"])
    assert len({*found.context}) == 1
    assert [*found.signal] == [*records.SIGNALS] * 2
    assert len({*statistics.placed(table).context}) == 3
