"""`lossbench verify` sees every damage and every gap, and says what holds on this machine."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pyarrow as pa
import pytest
from configs import make_run
from interrupted import sweep_in
from sweep_on_disk import build, plan_runs, with_status

from lossbench import cli, records, store
from lossbench.records import integrity
from lossbench.sweep import invariance


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A sweep of two runs as it was written."""
    folder = tmp_path_factory.mktemp("written") / "mine"
    sweep_in(folder).run([make_run(loss=loss, steps=4) for loss in ("mse", "mae")])
    return folder


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def test_a_sweep_as_it_was_written_is_whole_and_says_that_packs_change_no_bit(written, capsys):
    assert cli.main(["verify", str(written)]) == cli.DONE
    out = capsys.readouterr().out
    assert "1 packs, 9 files" in out
    assert "all as written" in out
    assert "2 planned runs: 2 done" in out
    assert records.load(written).runs.environment.str.contains('"packs": "bitwise"').all()


DAMAGES = {
    **{
        f"packs/*/{table}.parquet": (flip_a_bit, f"{table}.parquet: content differs")
        for table in records.TABLES
    },
    "packs/*/commit.json": (
        lambda path: path.write_bytes(path.read_bytes().replace(b'"done"', b'"dome"', 1)),
        "altered",
    ),
    "curves-*.parquet": (lambda path: path.write_bytes(b""), ".parquet: content differs"),
    "plan-*.parquet": (flip_a_bit, ".parquet: content differs from its recorded sha256. Restore"),
    "sweep.json": (flip_a_bit, "sweep.json: "),
}


@pytest.mark.parametrize("file", DAMAGES)
def test_any_damage_is_found_and_named(file, written, tmp_path, capsys):
    damage, message = DAMAGES[file]
    folder = shutil.copytree(written, tmp_path / "mine")
    (path,) = folder.glob(file)
    damage(path)
    assert cli.main(["verify", str(folder)]) == cli.SOME_FAILED
    out = capsys.readouterr().out
    assert message in out
    assert "1 damaged" in out


def rows(name, change):
    """A forgery that changes a pack's table, its sha256 and the record's with it."""

    def forge(pack, state):
        path = pack / f"{name}.parquet"
        content = records.encode(change(records.decode(path.read_bytes(), path=path)))
        path.write_bytes(content)
        state["files"][path.name] = store.sha256(content)

    return forge


def foreign(table):
    place = table.schema.get_field_index("run_id")
    return table.set_column(place, table.schema.field(place), pa.array(["f" * 16] * len(table)))


def with_more_steps(table):
    place = table.schema.get_field_index("config")
    longer = [text.replace('"steps": 4', '"steps": 9') for text in table["config"].to_pylist()]
    return table.set_column(place, table.schema.field(place), pa.array(longer))


def drop_files(pack, state):
    state["files"] = {}


FORGERIES = {
    "a row twice": (
        rows("evals", lambda table: pa.concat_tables([table, table.slice(0, 1)])),
        "evals.parquet: 1 rows are there twice",
    ),
    "rows of another pack": (rows("steps", foreign), "steps.parquet: rows of 1 runs that are not"),
    "a run without a row": (
        rows("runs", lambda table: table.slice(0, 1)),
        "runs.parquet: no row of 1 runs of the pack",
    ),
    "another config": (
        rows("runs", with_more_steps),
        "runs.parquet: 2 runs with a config that is not that of their run_id",
    ),
    "another schema": (lambda pack, state: state.update(schema=99), "schema 99, this version"),
    "no files": (drop_files, "finished, and without evals.parquet, examples.parquet"),
    "a file elsewhere": (
        lambda pack, state: state["files"].update({"../../x": "0" * 64}),
        "not a commit record of lossbench",
    ),
}


@pytest.mark.parametrize(("forge", "message"), FORGERIES.values(), ids=FORGERIES)
def test_what_was_forged_with_its_hashes_is_named(forge, message, written, tmp_path, capsys):
    folder = shutil.copytree(written, tmp_path / "mine")
    (pack,) = (folder / "packs").iterdir()
    state = store.committed(pack)
    forge(pack, state)
    store.write(pack / store.COMMIT, store.sealed(state))
    assert cli.main(["verify", str(folder)]) == cli.SOME_FAILED
    assert message in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["curves", "machine", "plan"])
def test_a_file_that_is_missing_is_named(kind, written, tmp_path, capsys):
    folder = shutil.copytree(written, tmp_path / "mine")
    (path,) = folder.glob(f"{kind}-*")
    path.unlink()
    assert cli.main(["verify", str(folder)]) == cli.SOME_FAILED
    out = capsys.readouterr().out
    assert f"{kind}-" in out
    assert "1 damaged" in out


def test_a_pack_that_is_committed_anew_while_it_is_read_is_read_again(
    written, tmp_path, monkeypatch
):
    folder = shutil.copytree(written, tmp_path / "mine")
    (pack,) = (folder / "packs").iterdir()
    state, read = store.committed(pack), store.read

    def read_late(path, name, record=None):
        if record is not None and "worn.bin" in record["files"]:
            # Between the reading of a record and that of its files, another process does this.
            store.write(pack / store.COMMIT, store.sealed(state))
        return read(path, name, record)

    monkeypatch.setattr(store, "read", read_late)
    files = state["files"] | {"worn.bin": "0" * 64}
    store.write(pack / store.COMMIT, store.sealed({**state, "files": files}))
    result = integrity.verified(folder, is_named_after=lambda run_id, config: True)
    assert result.is_whole
    assert result.problems == []


def test_tables_whose_commit_record_is_gone_are_named(written, tmp_path, capsys):
    folder = shutil.copytree(written, tmp_path / "mine")
    (pack,) = (folder / "packs").iterdir()
    (pack / store.COMMIT).unlink()
    assert cli.main(["verify", str(folder)]) == cli.SOME_FAILED
    assert "commit.json is missing, and evals.parquet" in capsys.readouterr().out


def test_recorded_runs_that_no_plan_asks_for_are_counted(written, tmp_path, capsys):
    folder = shutil.copytree(written, tmp_path / "mine")
    sweep_in(tmp_path / "other").run([make_run(loss="huber", steps=4)])
    (pack,) = (tmp_path / "other" / "packs").iterdir()
    shutil.copytree(pack, folder / "packs" / pack.name)
    assert cli.main(["verify", str(folder)]) == cli.DONE
    assert "1 recorded runs are in no plan" in capsys.readouterr().out


def link(path):
    path.symlink_to("/etc/passwd")


KINDS = {"link": link, "pipe": os.mkfifo, "folder": os.mkdir}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(
    "file", ["packs/*/commit.json", "packs/*/steps.parquet", "sweep.json", "plan-*"]
)
def test_what_is_no_file_is_refused_at_once_and_never_followed(
    file, make, written, tmp_path, capsys
):
    folder = shutil.copytree(written, tmp_path / "mine")
    (path,) = folder.glob(file)
    path.unlink()
    make(path)
    assert cli.main(["verify", str(folder)]) != cli.DONE
    text = "".join(capsys.readouterr())
    assert "a link, folder, pipe or device" in text or "is not a sweep" in text


def test_brackets_without_end_are_one_line(written, tmp_path, capsys):
    folder = shutil.copytree(written, tmp_path / "mine")
    (folder / "sweep.json").write_bytes(b"[" * 10**6)
    assert cli.main(["verify", str(folder)]) == cli.SOME_FAILED
    assert "sweep.json: cannot be read as JSON" in capsys.readouterr().out


def test_a_damaged_table_stops_a_resume_as_it_stops_a_report(written, tmp_path):
    folder = shutil.copytree(written, tmp_path / "mine")
    (path,) = folder.glob("packs/*/layers.parquet")
    flip_a_bit(path)
    with pytest.raises(store.StoreError, match=r"layers.parquet: content differs"):
        sweep_in(folder).run([make_run(loss="huber", steps=4)])


def test_what_is_missing_or_failed_is_counted(tmp_path):
    runs = with_status(plan_runs(), "missing", count=2, lr=0.1, loss="mae")
    folder = build(tmp_path / "gaps", with_status(runs, "failed", count=1, loss="mse"))
    result = integrity.verified(folder, is_named_after=lambda run_id, config: True)
    assert (result.runs["failed"], result.runs["missing"]) == (1, 2)
    assert not result.is_whole


@pytest.mark.parametrize("line", [["verify"], ["verify", "a", "b"], ["verify", "--machine", "x"]])
def test_a_mistake_is_one_line(line, capsys):
    assert cli.main(line) == cli.MISTAKE
    assert capsys.readouterr().err.count("\n") == 1


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

    # No machine at hand lets members depend on one another.
    monkeypatch.setattr(invariance, "train", coupled)
    found = invariance.invariance.__wrapped__("cpu", "float32", 2)
    assert found.differing > 50
    assert 1e-6 < found.worst < 2e-5
    assert found.mode.startswith("within ")


@pytest.mark.parametrize("place", ["train.py", "strategies/stack.py"])
def test_what_was_found_is_not_believed_of_another_engine(tmp_path, monkeypatch, place):
    (tmp_path / "strategies").mkdir()
    (tmp_path / place).write_text("one = 1")
    # The engine that is under test stays as it is.
    monkeypatch.setattr(invariance.engine, "__file__", str(tmp_path / "__init__.py"))
    before = invariance._code.__wrapped__()
    (tmp_path / place).write_text("one = 2")
    assert invariance._code.__wrapped__() != before
