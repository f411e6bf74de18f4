"""A sweep in other tools, read back by their own readers and compared with the records."""

from __future__ import annotations

import csv
import importlib.util
import json
import struct
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from needs import skip_without

from lossbench import cli, export, records, statistics
from lossbench.export import contents, plain

SIGNALS = ["loss_value", "gradient_norm", "output_gradient_norm", "error_norm", "cosine"]
SIGNALS += ["saturated_share", "update_ratio"]


@pytest.fixture(scope="module")
def trained(essay_sweep):
    """Three contexts of the sweep with two seeds each, of both kinds of task."""
    loaded = records.load(essay_sweep)
    keep = loaded.runs.data.isin(["diabetes", "finite_support"]) & (loaded.runs.seed < 2)
    few = records.load(essay_sweep)
    few.planned = loaded.planned.loc[loaded.runs[keep].run_id]
    return few


@pytest.fixture(scope="module")
def chosen(trained):
    """run_id of the runs behind the verdicts."""
    return {i for one in statistics.Verdicts(trained).mains for i in one.runs.run_id}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def need(package):
    if importlib.util.find_spec(package) is None:
        skip_without(package, f"needs the package {package}: pip install 'lossbench[{package}]'")


def curves(trained, run_id):
    """(tag, step) -> value of all that was recorded of a run over steps, NaN left out."""
    steps = trained.steps[trained.steps.run_id == run_id].set_index("step")
    evals = trained.evals[trained.evals.run_id == run_id]
    values = {
        (f"steps/{name}", step): value for name in SIGNALS for step, value in steps[name].items()
    }
    rows = zip(evals.split, evals.metric, evals.step, evals.value, strict=True)
    values |= {(f"{split}/{metric}", step): value for split, metric, step, value in rows}
    (run,) = trained.runs[trained.runs.run_id == run_id].itertuples()
    primary = records.PRIMARY[run.task]
    for split in ("validation", "test"):
        key = (f"{split}/{primary}", run.best_step)
        values[f"best/{split}/{primary}", run.best_step] = values[key]
    return {key: float(value) for key, value in values.items() if not np.isnan(value)}


def test_every_cell_of_the_csv_files_is_that_of_the_records(trained, chosen, place):
    for is_whole, kept in ((False, chosen), (True, {*trained.runs.run_id})):
        export.export(trained, to="csv", into="out", is_whole=is_whole)
        for table in records.TABLES:
            frame = getattr(trained, table)
            frame = frame[frame.run_id.isin(kept)]
            read = cells(place / "out" / f"{table}.csv")
            assert [*read] == [column.name for column in records.COLUMNS[table]]
            for name, texts in read.items():
                assert_equal(texts, frame[name])
    read = cells(place / "out" / "verdicts.csv")
    verdicts = pd.DataFrame(plain.verdicts(statistics.Verdicts(trained))["verdicts"])
    assert [*read] == [*plain.FIELDS]
    for name, texts in read.items():
        assert_equal(texts, verdicts[name])


def cells(path):
    """Of a CSV file the texts by column, read without guessing types."""
    with path.open(newline="") as file:
        head, *rows = csv.reader(file)
    return dict(zip(head, zip(*rows, strict=True), strict=True))


def assert_equal(texts, column):
    kind = column.dtype.kind if isinstance(column.dtype, np.dtype) else "O"
    if kind == "f":
        # A float32 is written as the shortest text that reads back to it.
        read = np.array([float(text or "nan") for text in texts]).astype(column.dtype)
        np.testing.assert_array_equal(read, column.to_numpy(), strict=True)
    elif kind == "b":
        assert [*texts] == [str(value).lower() for value in column]
    else:
        assert [*texts] == ["" if pd.isna(value) else str(value) for value in column]


@pytest.mark.exhaustive
def test_tensorboard_reads_every_curve_as_the_float32_of_the_records(trained, chosen, place):
    need("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    from lossbench.export.tensorboard import EVENTS

    folder = place / "events"
    export.export(trained, to="tensorboard", into=str(folder))
    first = {path: path.read_bytes() for path in folder.rglob("events*")}
    export.export(trained, to="tensorboard", into=str(folder))
    assert {path: path.read_bytes() for path in folder.rglob("events*")} == first
    seen = set()
    for path in {*first} - {folder / EVENTS}:
        events = EventAccumulator(str(path.parent), {"scalars": 0, "tensors": 0}).Reload()
        content = events.summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data.content
        start = metadata.parse_session_start_info_plugin_data(content)
        read = {
            (tag, event.step): event.value
            for tag in events.Tags()["scalars"]
            for event in events.Scalars(tag)
        }
        recorded = curves(trained, start.group_name)
        assert read == {key: float(np.float32(value)) for key, value in recorded.items()}
        (run,) = trained.runs[trained.runs.run_id == start.group_name].itertuples()
        assert start.hparams["lr"].number_value == run.lr
        assert start.hparams["loss"].string_value == run.loss
        parts = path.parent.relative_to(folder).parts
        assert parts[:2] == (run.data, run.model)
        assert parts[-2:] == (f"lr={run.lr:g}", f"seed={run.seed}")
        seen.add(start.group_name)
    assert seen == chosen
    head = EventAccumulator(str(folder), {"tensors": 0}).Reload()
    (text,) = head.Tensors("verdicts")[0].tensor_proto.string_val
    for row in plain.verdicts(statistics.Verdicts(trained))["verdicts"]:
        assert f"| {row['loss']} | {row['reference']} |" in text.decode()
    # What an earlier export with --all wrote does not stay among the runs behind the verdicts.
    export.export(trained, to="tensorboard", into=str(folder), is_whole=True)
    assert len([*folder.rglob("events*")]) == 1 + len(trained.runs)
    export.export(trained, to="tensorboard", into=str(folder))
    assert {path: path.read_bytes() for path in folder.rglob("events*")} == first


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
def test_mlflow_has_each_run_once_with_every_value_of_the_records(
    trained, chosen, place, monkeypatch
):
    need("mlflow")
    need("sqlalchemy")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    uri = f"sqlite:///{place}/mlflow.db"
    export.export(trained, to="mlflow", into=uri)
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("essay")
    runs = client.search_runs([experiment.experiment_id])
    # One whose export was interrupted is written again, the others are left alone.
    client.update_run(runs[0].info.run_id, status="RUNNING")
    export.export(trained, to="mlflow", into=uri)
    again = client.search_runs([experiment.experiment_id])
    kept = {run.info.run_id for run in again} & {run.info.run_id for run in runs}
    assert len(kept) == len(runs) - 1 == len(again) - 1
    assert {run.data.tags["lossbench.run_id"] for run in again} == chosen
    assert all(run.info.status == "FINISHED" for run in again)
    for run in again:
        recorded = curves(trained, run.data.tags["lossbench.run_id"])
        tags = {tag for tag, _ in recorded}
        read = {
            (tag, point.step): point.value
            for tag in run.data.metrics
            for point in client.get_metric_history(run.info.run_id, tag)
        }
        assert read == recorded
        assert {*run.data.metrics} == tags
        (row,) = trained.runs[trained.runs.run_id == run.data.tags["lossbench.run_id"]].itertuples()
        config = json.loads(row.config)
        assert float(run.data.params["lr"]) == config["lr"] == row.lr
        assert run.data.params["loss"] == config["loss"]["name"]
        assert int(run.data.params["steps"]) == config["steps"]
    note = experiment.tags.get("mlflow.note.content", "")
    assert "| mae | mse |" in note


@pytest.mark.exhaustive
def test_wandb_logs_every_step_of_a_run_under_its_run_id(trained, place, monkeypatch):
    need("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    from lossbench.export import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    two = trained.runs.run_id.isin([*trained.runs.run_id[:2]])
    verdicts = pd.DataFrame(plain.verdicts(statistics.Verdicts(trained))["verdicts"])
    few = contents.Export(trained, contents.titled(trained)[two].assign(chosen=True), verdicts)
    wandb.write(few, "")
    read = {}
    for path in place.glob("wandb/offline-run-*/run-*.wandb"):
        run_id = path.stem.removeprefix("run-")
        if run_id == "verdicts-essay":
            continue
        for content in logged(path.read_bytes()):
            record = Record.FromString(content)
            if record.WhichOneof("record_type") != "history":
                continue
            items = record.history.item
            row = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}
            step = row.pop("_step")
            for tag, value in row.items():
                if not tag.startswith("_"):
                    read[run_id, tag, step] = float(value)
    assert read == {
        (run_id, *key): value
        for run_id in trained.runs.run_id[:2]
        for key, value in curves(trained, run_id).items()
    }
    (table,) = place.glob("wandb/offline-run-*/files/media/table/verdicts*.json")
    table = json.loads(table.read_text())
    assert table["columns"] == [*plain.FIELDS]
    at = table["columns"].index("verdict")
    assert [row[at] for row in table["data"]] == [*verdicts.verdict]


def logged(content):
    """Records of a file of wandb: LevelDB's log format after a header of 7 bytes."""
    position, parts = 7, []
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        parts.append(content[position + 7 : position + 7 + length])
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--to", "tensorbord"], ["'tensorbord'", "'tensorboard'"]),
        (["--to", "csv", "--into", "taken"], ["taken", "not empty", "--into"]),
        (["--to", "csv", "--into", "taken/notes.txt"], ["notes.txt", "is a file"]),
        (["--al"], ["--to"]),
        (["--to", "csv", "--al"], ["--al"]),
    ],
)
def test_an_export_that_cannot_be_is_refused_in_one_line(
    words, parts, trained, place, capsys, monkeypatch
):
    (place / "taken").mkdir()
    (place / "taken" / "notes.txt").write_text("mine")
    monkeypatch.setattr(records, "load", lambda folder: trained)  # read once
    assert cli.main(["export", "runs/essay", *words]) == cli.MISTAKE
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(part in error for part in parts)
    assert [path.name for path in place.rglob("*.*")] == ["notes.txt"]


def test_a_package_that_is_missing_is_named_with_its_cure(trained, monkeypatch, capsys):
    monkeypatch.setitem(export.TARGETS, "mlflow", "no_such_package")
    assert cli.main(["export", str(trained.sweep_dir), "--to", "mlflow"]) == cli.MISTAKE
    assert "pip install 'lossbench[mlflow]'" in capsys.readouterr().err


def test_a_verdict_without_a_pair_is_a_row_without_numbers():
    columns = {"context": "diabetes", "condition": "own_lr", "loss": "mine", "reference": "mse"}
    numbers = {"estimate": None, "low": None, "high": None, "verdict": "undecided"}
    text = contents.markdown(pd.DataFrame([columns | numbers]), most=10_000)
    assert text.splitlines()[-1].endswith("| mine | mse | – [–, –] | undecided |")


def test_another_sweeps_export_is_not_written_over(trained, place, monkeypatch, capsys):
    export.export(trained, to="csv", into=str(place / "out"))
    monkeypatch.setitem(trained.plan, "name", "another")
    with pytest.raises(ValueError, match="not an export of another to csv"):
        export.export(trained, to="csv", into=str(place / "out"))


def test_no_tool_is_imported_before_it_is_asked_for():
    code = "import sys, lossbench.cli, lossbench.export\n"
    code += "sys.exit(repr({'tensorboard', 'mlflow', 'wandb'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stderr.strip() == "set()"
