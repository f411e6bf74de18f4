"""Records: schema, parquet files, and which rows `load` keeps."""

from __future__ import annotations

import io

import pandas as pd
import plans
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from configs import make_run

from lossbench import records, store
from lossbench.engine import Machine, train
from lossbench.question import packs
from lossbench.sweep import splits_of

CPU = torch.device("cpu")

SAMPLES = {pa.string(): "a", pa.int64(): 3, pa.float64(): 0.1, pa.float32(): 0.1}


def row_of(table, **values):
    """A row with a value of the right type in each column."""
    return {column.name: SAMPLES[column.type] for column in records.COLUMNS[table]} | values


def table_of(table, rows):
    return records.table_from(table, {name: [row[name] for row in rows] for name in rows[0]})


def write_pack(folder, pack_id, statuses):
    """Commit a pack; `statuses` by run_id. The one eval value tells the pack apart."""
    keys = [{"run_id": run_id, "pack_id": pack_id} for run_id in statuses]
    tables = {
        "runs": [
            row_of("runs", **key, status=status, reason="")
            for key, status in zip(keys, statuses.values(), strict=True)
        ],
        **{
            table: [row_of(table, **key, step=step) for key in keys for step in (0, 10)]
            for table in ("steps", "layers", "evals")
        },
        "examples": [row_of("examples", **key, example=place) for key in keys for place in (0, 1)],
    }
    members = {run_id: {"status": status, "reason": ""} for run_id, status in statuses.items()}
    store.commit(
        folder / "packs" / pack_id,
        {f"{name}.parquet": records.encode(table_of(name, rows)) for name, rows in tables.items()},
        {"schema": records.SCHEMA, "members": members, "is_finished": True},
    )


FACTS = {"loss": "mse", "data": "diabetes", "lr": 0.1, "seed": 1}


def write_plan(folder, run_ids, **how):
    plans.write_plan(folder, {}, [{"run_id": run_id, **FACTS} for run_id in run_ids], **how)


@pytest.fixture
def sweep(tmp_path):
    """Runs a, b, c recorded in two packs with different ends, d planned only."""
    write_plan(tmp_path, "abcd")
    write_pack(tmp_path, "p1", {"a": "failed", "b": "diverged", "c": "done"})
    write_pack(tmp_path, "p2", {"a": "done", "b": "failed"})
    return tmp_path


@pytest.mark.parametrize("table", records.TABLES)
def test_a_table_comes_back_with_its_types_its_order_and_its_values(table):
    before = table_of(table, [row_of(table), row_of(table, seed=2**40, lr=1e-300)])
    after = records.decode(records.encode(before), path="p")
    assert after.schema.names == [column.name for column in records.COLUMNS[table]]
    assert after.schema.names[:8] == [key.name for key in records.KEYS]
    assert [field.type for field in after.schema] == [c.type for c in records.COLUMNS[table]]
    assert after.equals(before)
    empty = records.schema(table).empty_table()
    assert records.decode(records.encode(empty), path="p").schema.equals(empty.schema)


def test_nan_and_infinity_survive():
    values = [float("nan"), float("inf"), -0.0]
    table = table_of("evals", [row_of("evals", value=value) for value in values])
    after = records.decode(records.encode(table), path="p")["value"].to_pylist()
    assert [str(value) for value in after] == ["nan", "inf", "-0.0"]


def test_a_declared_column_that_is_missing_is_an_error():
    columns = {name: [value] for name, value in row_of("evals").items() if name != "value"}
    with pytest.raises(KeyError, match="value"):
        records.table_from("evals", columns)


def test_flipped_bits_in_the_pages_are_found_by_their_checksums():
    table = table_of("evals", [row_of("evals", value=i / 7) for i in range(8000)])
    content = records.encode(table)
    found = 0
    for place in range(8, len(content) // 2, 997):
        flipped = bytearray(content)
        flipped[place] ^= 4
        try:
            assert records.decode(bytes(flipped), path="p").equals(table)
        except store.StoreError as error:
            found += "crc" in str(error).lower()
    assert found > 3


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all", b"PAR1" + 99 * b"x"])
def test_what_is_no_parquet_is_refused_by_its_path(content):
    with pytest.raises(store.StoreError, match=r"runs\.parquet: not a readable parquet file"):
        records.decode(content, path="runs.parquet")


@pytest.mark.parametrize(
    ("metadata", "found"), [(None, "none"), ({"lossbench_schema": "99"}, "99")]
)
def test_a_foreign_file_and_another_schema_are_refused_with_a_cure_in_one_line(metadata, found):
    buffer = io.BytesIO()
    pq.write_table(pa.table({"x": [1]}).replace_schema_metadata(metadata), buffer)
    with pytest.raises(store.StoreError, match=f"schema {found}.* into another name=") as caught:
        records.decode(buffer.getvalue(), path="runs.parquet")
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_sweep_is_refused_with_an_example(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(store.StoreError, match=r"is not a sweep.*like runs/essay.* ask again"):
            records.load(folder)


@pytest.mark.parametrize("content", [b"{}", b"[]", b"3", store.sealed({"planned": {}})])
def test_a_plan_that_is_not_ours_is_refused_with_the_cure(sweep, content):
    (sweep / "sweep.json").write_bytes(content)
    with pytest.raises(store.StoreError, match=r"not a (plan|record).*[Dd]elete"):
        records.load(sweep)


def test_a_run_recorded_twice_is_kept_done_before_diverged_before_failed(sweep):
    runs = records.load(sweep).runs.set_index("run_id")
    assert runs.status.to_dict() == {"a": "done", "b": "diverged", "c": "done", "d": "missing"}
    assert runs.pack_id["a"] == "p2"
    assert runs.pack_id["b"] == runs.pack_id["c"] == "p1"
    assert runs.loc["d", ["loss", "lr", "seed"]].tolist() == ["mse", 0.1, 1]  # as planned


@pytest.mark.parametrize("table", records.TABLES[1:])
def test_every_table_has_the_rows_of_the_kept_record_only(sweep, table):
    frame = getattr(records.load(sweep), table)
    assert frame.groupby("run_id").pack_id.unique().map(list).to_dict() == {
        "a": ["p2"],
        "b": ["p1"],
        "c": ["p1"],
    }
    assert len(frame) == 6


def test_a_sweep_without_any_record_has_only_missing_runs(tmp_path):
    write_plan(tmp_path, "ab")
    loaded = records.load(tmp_path)
    assert loaded.runs.status.tolist() == ["missing", "missing"]
    assert set(loaded.runs.columns) >= {column.name for column in records.COLUMNS["runs"]}
    assert all(len(getattr(loaded, table)) == 0 for table in records.TABLES[1:])
    assert loaded.sql("select count(*) as n from evals").n[0] == 0


def test_tables_without_a_commit_record_are_refused_and_a_pack_without_both_is_missing(sweep):
    (sweep / "packs" / "p1" / store.COMMIT).unlink()
    with pytest.raises(store.StoreError, match="is missing, and evals"):
        _ = records.load(sweep).runs
    for path in (sweep / "packs" / "p1").glob("*.parquet"):
        path.unlink()
    runs = records.load(sweep).runs.set_index("run_id")
    assert runs.status.to_dict() == {"a": "done", "b": "failed", "c": "missing", "d": "missing"}


@pytest.mark.parametrize("table", records.TABLES)
def test_sql_sees_the_rows_that_pandas_sees(sweep, table):
    loaded = records.load(sweep)
    expected = getattr(loaded, table)
    if table == "runs":
        expected = expected[expected.status != "missing"].drop(
            columns=["planned_context", "planned_params", "planned_slot"]
        )
    order = [name for name in ("run_id", "step", "example") if name in expected]
    found = loaded.sql(f"select * from {table}")[list(expected.columns)]
    pd.testing.assert_frame_equal(
        found.sort_values(order, ignore_index=True).astype(object),
        expected.sort_values(order, ignore_index=True).astype(object),
    )


def test_sql_works_below_a_folder_with_a_quote_in_its_name(tmp_path):
    folder = tmp_path / "it's mine"
    write_plan(folder, "a")
    write_pack(folder, "p1", {"a": "done"})
    assert records.load(folder).sql("select run_id from runs").run_id.tolist() == ["a"]


@pytest.mark.parametrize("table", records.TABLES)
def test_an_altered_file_is_refused_by_pandas_and_by_sql(sweep, table):
    path = sweep / "packs" / "p1" / f"{table}.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(store.StoreError, match=r"Delete .* and run the sweep again"):
        getattr(records.load(sweep), table)
    with pytest.raises(store.StoreError, match=r"Delete .* and run the sweep again"):
        records.load(sweep).sql(f"select * from {table}")


def test_every_metric_has_a_direction_and_an_unknown_one_names_the_known():
    assert {records.direction(name) for name in records.METRICS} == {"lower", "higher", ""}
    assert records.direction("loss:anything") == "lower"
    assert records.direction("accuracy:12") == "higher"
    for name in ("accuracy:", "accuracy:01", "accuracy:-1", "accuracy:1x", "xaccuracy:1"):
        with pytest.raises(ValueError, match="unknown"):
            records.direction(name)
    with pytest.raises(ValueError, match="rmse, mae"):
        records.direction("rmsee")


NOISE = {"name": "symmetric", "params": {"rate": 0.4}}
OUTLIERS = {"name": "outliers", "params": {"rate": 0.2}}
SHORT = {"steps": 2, "eval_every": 1, "model": "linear", "model__params": {}}


def test_a_metric_is_recorded_on_the_splits_that_it_declares_and_on_no_other():
    asked = [
        {"data": "finite_support", "loss": "cross_entropy"},
        {"data": "digits", "loss": "cross_entropy", "data__corruption": NOISE},
        {"data": "many_labels", "loss": "bce_ova"},
        {"loss": "mse", "data__corruption": OUTLIERS},
        {"loss": "gaussian_nll"},
        {"loss": "pinball"},
    ]
    seen = {}
    for one in asked:
        run = make_run(**SHORT, **one)
        pack, splits = packs.Pack("pack", (run,)), {run.seed: splits_of(run)}
        found = train(pack, splits, Machine(CPU))
        rows = found["evals"].to_pandas().dropna(subset="value")
        for metric, split in zip(rows.metric, rows.split, strict=True):
            seen.setdefault(metric, set()).add(split)
    told = {name: {*metric.splits} for name, metric in records.METRICS.items()}
    assert {name: seen.get(name) for name in told} == told
    assert seen["accuracy:0"] == {*records.metric_of("accuracy:0").splits}
