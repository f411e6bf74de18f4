"""What thousands of runs leave on disk, and what is read of it. Training is stubbed."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from configs import IN_THIS_PROCESS

from lossbench import cli, records, statistics
from lossbench.sweep import training

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where a thousand runs were planned, recorded and judged by one command."""
    folder = tmp_path_factory.mktemp("scale")
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        patch.syspath_prepend(str(BENCHMARKS))
        patch.setattr(training, "train", training.train)  # which the next line replaces
        import untrained  # noqa: F401

        patch.setattr(records.Records, "steps", property(refused))
        patch.setattr(records.Records, "layers", property(refused))
        patch.setattr(records.Records, "evals", property(refused))
        patch.setattr(records.Records, "examples", property(refused))
        assert ask() == cli.DONE
        yield folder
    del sys.modules["untrained"]


def refused(loaded):
    pytest.fail("a table is read whole")


def ask():
    line = ["experiment=compare", "data=noisy_linear", "model=linear", "report=none"]
    line += ["loss=mse,mae,quartic,huber,log_cosh", "hydra.sweeper.looks=[20]", "name=many"]
    line += ["hydra.sweeper.candidates.lr=[0.003,0.005,0.01,0.02,0.03,0.05,0.1,0.2,0.3,0.5]"]
    line += ["steps=4", "log_every=2", "eval_every=2"]
    return cli.main([*line, IN_THIS_PROCESS])


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_thousand_runs_are_one_part_of_a_plan_and_seven_files_a_pack(place):
    sweep = place / "runs" / "many"
    (part,) = sweep.glob("plan-*.parquet")
    assert len(records.load(sweep).planned) == 1000
    assert part.stat().st_size < 40 * 1000
    assert (sweep / "sweep.json").stat().st_size < 20_000
    packs = [*(sweep / "packs").iterdir()]
    assert len(packs) == 8
    assert {path.name for path in files(packs[0])} <= {
        "commit.json", "lock", *(f"{table}.parquet" for table in records.TABLES)
    }  # fmt: skip


def test_losses_of_a_seed_are_pairs_and_judged(place):
    (main,) = statistics.Verdicts(records.load(place / "runs" / "many")).mains
    assert main.refusal == ""
    assert len(main.paired) == 4
    assert (main.paired.pairs == 20).all()


def test_the_same_command_again_trains_nothing_and_writes_nothing(place, monkeypatch):
    monkeypatch.setattr(training, "train", lambda *_, **__: pytest.fail("it trains"))
    before = files(place)
    assert ask() == cli.DONE
    assert files(place) == before


def test_what_is_judged_is_what_whole_tables_would_say(place):
    """The columns that are read, and their rows, are those of the table."""
    loaded = records.load(place / "runs" / "many")
    names = ["run_id", "step", "split", "metric", "value"]
    whole = loaded.sql(f"select {', '.join(names)} from evals")
    order = names[:-1]
    few = loaded.measured.astype(dict.fromkeys(("run_id", "split", "metric"), "str"))
    left, right = (frame.sort_values(order, ignore_index=True) for frame in (few, whole))
    assert len(left) > 10_000
    assert left[order].equals(right[order].astype(left[order].dtypes.to_dict()))
    assert left.value.equals(right.value)


@pytest.mark.exhaustive
def test_ten_thousand_runs_fit_into_a_gibibyte_and_a_half_of_memory():
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "scale.py"), "10000"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    peaks = [int(peak) for peak in re.findall(r"(\d+) MiB", done.stdout)]
    assert len(peaks) == 4
    assert max(peaks) < 1536
