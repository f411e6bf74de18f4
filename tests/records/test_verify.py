"""`lossbench verify` sees every damage and every gap, and says what holds on this machine."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from configs import make_run
from interrupted import sweep_in
from sweep_on_disk import build, plan_runs, with_status

from lossbench import cli
from lossbench.records.verify import verified
from lossbench.sweep import invariance


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep_in(tmp_path / "mine").run([make_run(loss=loss, steps=4) for loss in ("mse", "mae")])
    return tmp_path / "mine"


def test_a_sweep_as_it_was_written_is_whole(sweep, capsys):
    assert cli.main(["verify", "mine"]) == cli.DONE
    out = capsys.readouterr().out
    assert "1 packs, 5 files" in out
    assert "all as written" in out
    assert "2 planned runs: 2 done" in out


@pytest.mark.parametrize("name", ["runs", "steps", "layers", "evals"])
def test_one_flipped_bit_is_found_and_named(sweep, name, capsys):
    (path,) = sweep.glob(f"packs/*/{name}.parquet")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert cli.main(["verify", "mine"]) == cli.SOME_FAILED
    out = capsys.readouterr().out
    assert f"{name}.parquet: content differs" in out
    assert "1 damaged" in out


def test_a_damaged_record_of_a_pack_is_found(sweep):
    (path,) = sweep.glob("packs/*/commit.json")
    path.write_bytes(path.read_bytes().replace(b'"done"', b'"dome"', 1))
    (problem,) = verified(sweep).problems
    assert "altered" in problem


def test_damaged_curves_are_found(sweep):
    (sweep / "curves.parquet").write_bytes(b"")
    (problem,) = verified(sweep).problems
    assert "curves.parquet: content differs" in problem


def test_what_is_missing_or_failed_is_counted(tmp_path, capsys):
    runs = with_status(plan_runs(), "missing", count=2, stage="confirm", loss="mae")
    folder = build(tmp_path / "gaps", with_status(runs, "failed", count=1, loss="mse"))
    assert cli.main(["verify", str(folder)]) == cli.SOME_FAILED
    assert "1 failed, 2 missing" in capsys.readouterr().out


@pytest.mark.parametrize("line", [["verify"], ["verify", "a", "b"], ["verify", "--machine", "x"]])
def test_a_mistake_is_one_line(line, capsys):
    assert cli.main(line) == cli.MISTAKE
    assert capsys.readouterr().err.count("\n") == 1


def test_a_folder_that_is_no_sweep_is_a_mistake(tmp_path, capsys):
    assert cli.main(["verify", str(tmp_path)]) == cli.MISTAKE
    assert "is not a sweep" in capsys.readouterr().err


def test_no_member_depends_on_its_pack_mates_here(capsys):
    assert cli.main(["verify", "--machine"]) == cli.DONE
    assert capsys.readouterr().out.count("0 differ: bitwise") == 4


def test_a_member_that_depends_on_its_pack_mates_is_noticed(monkeypatch):
    original = invariance.train

    def coupled(pack, *arguments, **words):
        tables = original(pack, *arguments, **words)
        norms = tables["steps"]["gradient_norm"].to_numpy() * np.float32(1 + 1e-6 * len(pack.runs))
        place = tables["steps"].schema.get_field_index("gradient_norm")
        column = pa.array(norms, type=tables["steps"].schema.types[place])
        return {**tables, "steps": tables["steps"].set_column(place, "gradient_norm", column)}

    monkeypatch.setattr(invariance, "train", coupled)
    found = invariance.invariance.__wrapped__("cpu", "float32", 2)
    assert found.differing > 50
    assert 1e-6 < found.worst < 2e-5
    assert found.mode.startswith("within ")


def test_the_records_say_what_holds(sweep):
    from lossbench import records

    assert records.load(sweep).runs.environment.str.contains('"packs": "bitwise"').all()


@pytest.mark.parametrize("place", ["train.py", "strategies/stack.py"])
def test_what_was_found_is_not_believed_of_another_engine(tmp_path, monkeypatch, place):
    (tmp_path / "strategies").mkdir()
    (tmp_path / place).write_text("one = 1")
    monkeypatch.setattr(invariance.engine, "__file__", str(tmp_path / "__init__.py"))
    before = invariance._code.__wrapped__()
    (tmp_path / place).write_text("one = 2")
    assert invariance._code.__wrapped__() != before
