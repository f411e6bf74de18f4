"""The five tables of a sweep: their columns, and conversion to and from parquet files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lossbench import store

SCHEMA = 3
"""Version of the schema; incremented when a column changes its meaning."""

TABLES = ("runs", "steps", "layers", "evals", "examples")


@dataclass(frozen=True)
class Column:
    """One column of a table: name, type, unit, better direction and meaning."""

    name: str
    type: pa.DataType
    unit: str
    direction: str
    about: str


def _text(name: str, about: str) -> Column:
    return Column(name, pa.string(), "", "", about)


def _number(name: str, unit: str, direction: str, about: str) -> Column:
    return Column(name, pa.float64(), unit, direction, about)


def _measure(name: str, unit: str, direction: str, about: str) -> Column:
    return Column(name, pa.float32(), unit, direction, about)


def _count(name: str, unit: str, about: str) -> Column:
    return Column(name, pa.int64(), unit, "", about)


KEYS = (
    _text("run_id", "16 hex digits that identify the run's configuration and code"),
    _text("pack_id", "the pack it was trained in"),
    _text("data", "data set, as typed"),
    _text("model", "model, as typed"),
    _text("loss", "loss, as typed"),
    _text("optimizer", "optimizer, as typed"),
    _number("lr", "1", "", "base learning rate, before the schedule"),
    _count("seed", "1", "block of the paired design"),
)

_STEP = _count("step", "updates", "optimizer updates done; 0 is before any")

COLUMNS: dict[str, tuple[Column, ...]] = {
    "runs": (
        *KEYS,
        _text("task", "regression or classification"),
        _text("family", "family of the loss"),
        _text("config", "the whole resolved configuration as canonical JSON"),
        _text("status", "done, diverged, failed or missing"),
        _text("reason", "why it diverged or failed, else empty"),
        _count("stop_step", "updates", "updates done when the run ended, diverged or failed"),
        _count("best_step", "updates", "evaluated step with the best validation rmse or accuracy"),
        _text(
            "init_sha", "sha256 of the initial parameters, without outputs beyond one per target"
        ),
        _text("batch_sha", "sha256 of the whole stream of batch indices, and of its augmentation"),
        _text("data_sha", "sha256 of all splits"),
        _number(
            "target_scale",
            "unit of the target",
            "",
            "standard deviation of the training target in its own unit; 1 for labels",
        ),
        _number(
            "corrupted_share",
            "1",
            "",
            "share of the training targets that corruption changed; 0 without, NaN where the data "
            "could not be made",
        ),
        _text(
            "transition",
            "under label noise the matrix of shares from true class (row) to given class over the "
            "training split, as JSON rounded to 6 digits; else empty",
        ),
        _count("train_examples", "1", "examples that it trains on"),
        _count("validation_examples", "1", "examples that candidates are chosen by"),
        _count("test_examples", "1", "examples that it is judged by"),
        _count("parameters", "1", "numbers that it learns"),
        _text("source_sha", "sha256 of the code of loss, data, model, optimizer and schedule"),
        _text("shared_sha", "sha256 of the same without the loss: equal for every loss of a seed"),
        _text("env_sha", "sha256 of versions, processor capability, threads and device"),
        _text("environment", "versions and processor capability as canonical JSON"),
        _text("device", "processor or accelerator it ran on"),
        _text("precision", "floating-point type of parameters and data"),
        _count("threads", "1", "threads of the process"),
        _count("pack_size", "members", "members trained together, padding not counted"),
        _number("train_seconds", "s", "lower", "wall time of the pack divided by its members"),
    ),
    "steps": (
        *KEYS,
        _STEP,
        _measure("loss_value", "unit of the loss", "lower", "mean own loss over the batch"),
        _measure(
            "gradient_norm", "loss/parameter", "", "L2 norm of d mean loss / d all parameters"
        ),
        _measure(
            "output_gradient_norm",
            "loss/output",
            "",
            "root mean square over the batch of the L2 norm of d loss / d output, over the outputs "
            "that make the prediction (not that of a variance), so that error_norm compares",
        ),
        _measure(
            "error_norm",
            "unit of the target",
            "lower",
            "root mean square over the batch of the L2 norm of prediction - target",
        ),
        _measure(
            "cosine",
            "1",
            "",
            "cosine(output_gradient, error), both flattened over the batch [B C]; NaN at zero",
        ),
        _measure(
            "saturated_share",
            "1",
            "",
            "share of the batch whose p(1-p) is below 0.01 for every output; NaN where the "
            "inverse link does not give probabilities",
        ),
        _measure("update_ratio", "1", "", "L2 norm of the next update / L2 norm of all parameters"),
    ),
    "layers": (
        *KEYS,
        _STEP,
        _text("layer", "path of the module that owns the parameters"),
        _measure("gradient_norm", "loss/parameter", "", "L2 norm of d mean loss / d the layer"),
        _measure("weight_norm", "1", "", "L2 norm of the layer's parameters"),
        _measure("update_ratio", "1", "", "L2 norm of the next update / weight_norm"),
    ),
    "evals": (
        *KEYS,
        _STEP,
        _text("split", "train, validation or test"),
        _text(
            "metric",
            "name of the metric; `loss:own` is the mean of the run's own loss against what it is "
            "fed in training (labels or distributions), `loss:NAME`, on test at the last step, "
            "that of another loss of the context; those of instruments are measured on one batch",
        ),
        _number(
            "value",
            "see metrics",
            "see metrics",
            "the metric over the whole split, of train over its first 2,000 examples",
        ),
    ),
    "examples": (
        *KEYS,
        _count("example", "1", "row of the test split, which is the same for every seed"),
        _text("metric", "accuracy or rmse, as the task has"),
        _number(
            "value",
            "see metrics",
            "see metrics",
            "what the example contributes to the metric on test at the last step, so that the mean "
            "over examples is the metric: of accuracy 1 or 0; of rmse (rmse + e²/rmse)/2, where e² "
            "is the example's squared error, the mean over targets: to first order how much the "
            "example moves it",
        ),
    ),
}


def schema(table: str) -> pa.Schema:
    """Arrow schema of a table, with the schema number in its metadata."""
    fields = [pa.field(column.name, column.type) for column in COLUMNS[table]]
    return pa.schema(fields, metadata={"lossbench_schema": str(SCHEMA), "lossbench_table": table})


def table_from(table: str, columns: Mapping[str, object]) -> pa.Table:
    """Make an Arrow table of columns, with the declared types and order.

    Raises:
        KeyError: A declared column is missing.
    """
    layout = schema(table)
    arrays = [pa.array(columns[field.name], type=field.type) for field in layout]
    return pa.Table.from_arrays(arrays, schema=layout)


def encode(table: pa.Table) -> bytes:
    """Encode a table as a parquet file: zstd, dictionaries, byte-split floats, page checksums."""
    texts = [field.name for field in table.schema if pa.types.is_string(field.type)]
    splits = {
        field.name: "BYTE_STREAM_SPLIT"
        for field in table.schema
        if pa.types.is_floating(field.type)
    }
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        compression="zstd",
        use_dictionary=texts,
        column_encoding=splits,
        write_page_checksum=True,
    )
    return buffer.getvalue()


_TEXTS = sorted(
    {column.name for table in COLUMNS.values() for column in table if column.type == pa.string()}
)


def decode(content: bytes, *, path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Decode the table in a parquet file that `encode` made; the path is for messages.

    Named columns are read with texts as dictionaries, all columns (None) with their declared types.

    Raises:
        store.StoreError: The file is not a parquet file, is foreign, or has another schema.
    """
    try:
        # A buffer, not a Python file object: Arrow's threads would call the object, and abort the
        # process if they still did so at its exit. Texts as dictionaries are read in a fifth of the
        # time.
        table = pq.read_table(
            pa.BufferReader(content),
            columns=columns,
            page_checksum_verification=True,
            read_dictionary=_TEXTS,
        )
        if not columns:
            layout = table.schema
            types = [getattr(field.type, "value_type", field.type) for field in layout]
            fields = [field.with_type(kind) for field, kind in zip(layout, types, strict=True)]
            table = table.cast(pa.schema(fields, metadata=layout.metadata))
    except (pa.ArrowException, OSError) as error:
        raise store.StoreError(f"{path}: not a readable parquet file ({error}).") from error
    number = (table.schema.metadata or {}).get(b"lossbench_schema", b"none").decode()
    if number != str(SCHEMA):
        raise store.StoreError(
            f"{path}: schema {number}, this version reads schema {SCHEMA}. "
            "Run the sweep again into another name=..."
        )
    return table
