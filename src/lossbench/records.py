"""The four tables a sweep leaves behind: their columns, their parquet files, and how to load them.

No torch here: everything after training (statistics, figures, report) starts from `load`.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lossbench import store

SCHEMA = 2
"""Number of the schema; it rises when a column changes its meaning."""

STATUSES = ("done", "diverged", "failed", "missing")
"""From the best to the worst; `load` keeps the best row of a run."""

TABLES = ("runs", "steps", "layers", "evals")


@dataclass(frozen=True)
class Condition:
    """At which learning rate a run trains, and what for.

    Attributes:
        stage: tune, confirm or exploratory.
        about: In words; {reference} stands for the reference loss.
        short: For narrow tables.
        is_own: Whether each loss has the rate that suits it, so that the comparison is fair.
    """

    stage: str
    about: str
    short: str
    is_own: bool = True


CONDITIONS: dict[str, Condition] = {
    "own_lr": Condition("confirm", "each loss at its own best learning rate", "at its own rate"),
    "reference_lr": Condition(
        "confirm",
        "every loss at the learning rate of {reference}",
        "at the reference's rate",
        is_own=False,
    ),
    "scale_matched": Condition(
        "confirm",
        "every loss at the rate of {reference}, initial output gradients scaled alike",
        "at matched scale",
        is_own=False,
    ),
    "as_given": Condition("exploratory", "at the given learning rates", "as given"),
    "grid": Condition("tune", "each loss at its best learning rate of the grid", "on the grid"),
}
"""Conditions in the order they are told."""


SIGNALS: dict[str, str] = {
    "own": "the output gradient of the loss itself",
    "norm_matched": "the loss's own output gradient, times what gives the gradient of all "
    "parameters the norm that the reference's would have at the same weights and batch",
    "reweighted": "the reference's output gradient, each example times the loss's weight: the norm "
    "of the loss's output gradient over that of the reference's, divided by its mean in the batch",
}
"""What drives an update, so that a difference splits into scale, weighting and the rest."""

REFERENCE = {"regression": "mse", "classification": "cross_entropy"}
"""The loss whose error signal is the error itself: what `SIGNALS` compare with."""


@dataclass(frozen=True)
class Instrument:
    """What is measured beside the metrics, when asked for with `instruments=[...]`.

    Attributes:
        about: In words.
        cost: Updates that one measurement takes as long as, measured with `benchmarks/`; it is
            taken so seldom that it costs 5 % of training or less.
    """

    about: str
    cost: float


INSTRUMENTS: dict[str, Instrument] = {}
"""Instruments by name, in the order they are told."""


@dataclass(frozen=True)
class Column:
    """One column of a table: its parquet type, unit, better direction and meaning."""

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
    _text("stage", "tune, confirm or exploratory"),
    _text(
        "condition", "; ".join(f"{k}: {row.about} ({row.stage})" for k, row in CONDITIONS.items())
    ),
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
        _text("batch_sha", "sha256 of the whole stream of batch indices"),
        _text("data_sha", "sha256 of all splits"),
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
        _text("split", "train, validation or test; stage tune never evaluates test"),
        _text(
            "metric",
            "name of the metric; `loss:own` is the mean of the run's own loss against what it is "
            "fed in training (labels or distributions), `loss:NAME`, on test at the last step, "
            "that of another loss of the task",
        ),
        _measure("value", "see metrics", "see metrics", "the metric over the whole split"),
    ),
}


@dataclass(frozen=True)
class Metric:
    """A metric's task, unit, better direction ("lower" or "higher") and meaning."""

    task: str
    unit: str
    direction: str
    about: str


_STANDARD = "standard deviations of the training target"

METRICS: dict[str, Metric] = {
    "rmse": Metric("regression", _STANDARD, "lower", "root mean squared error; best at the mean"),
    "mae": Metric("regression", _STANDARD, "lower", "mean absolute error; best at the median"),
    "median_ae": Metric("regression", _STANDARD, "lower", "median absolute error"),
    "r2": Metric("regression", "1", "higher", "1 - squared error / variance of the split's target"),
    "accuracy": Metric("classification", "1", "higher", "share of labels that are the largest p"),
    "brier": Metric(
        "classification",
        "1",
        "lower",
        "mean squared error summed over classes; a prediction off the simplex is projected onto it",
    ),
    "nll": Metric(
        "classification",
        "nats",
        "lower",
        "negative log-likelihood of the recalibrated softmax(a output + b), a and b fitted on "
        "validation in the same way for every loss (so in-sample there)",
    ),
    "ece": Metric(
        "classification", "1", "lower", "expected calibration error after the same recalibration"
    ),
    "nll_raw": Metric(
        "classification", "nats", "lower", "nll of the prediction itself; only probability links"
    ),
    "ece_raw": Metric(
        "classification", "1", "lower", "ece of the prediction itself; only probability links"
    ),
    "zero_share": Metric(
        "classification", "1", "lower", "share of labels given probability 0 by the projection"
    ),
    "kl": Metric(
        "classification",
        "nats",
        "lower",
        "KL divergence from the true posterior to the recalibrated prediction, where it is known",
    ),
    "tv_posterior": Metric(
        "classification",
        "1",
        "lower",
        "mean total variation distance, half the sum of absolute differences, from the true "
        "posterior, where it is known, to the prediction itself, not recalibrated; only "
        "probability links and strictly proper losses, 0 to 1 on the simplex",
    ),
    "tv_bayes": Metric(
        "classification",
        "1",
        "lower",
        "the same from the loss's own Bayes point: where its expected value is least at its "
        "parameters, over labels from the true posterior, or with data.targets=distribution "
        "against the posterior itself; only test, never in stage tune, over examples with one of "
        "the split's first 40 distinct posteriors",
    ),
}


OWN_LOSS = "loss:own"
"""Metric: the mean of a run's own loss at its own parameters."""


def metric_of(name: str) -> Metric:
    """The row of a metric; that of a loss, which has no task of its own, for `loss:NAME`.

    Raises:
        ValueError: The metric is not in `METRICS`, and neither `loss:own` nor a `loss:NAME`.
    """
    if name.startswith("loss:"):
        return Metric("", "unit of the loss", "lower", "mean of a loss")
    if name not in METRICS:
        raise ValueError(f"metric {name!r} is unknown: use one of {', '.join(METRICS)}")
    return METRICS[name]


def direction(metric: str) -> str:
    """The better direction of a metric: "lower" or "higher".

    Raises:
        ValueError: The metric is unknown.
    """
    return metric_of(metric).direction


def schema(table: str) -> pa.Schema:
    """Arrow schema of a table, with the schema number in its metadata."""
    fields = [pa.field(column.name, column.type) for column in COLUMNS[table]]
    return pa.schema(fields, metadata={"lossbench_schema": str(SCHEMA), "lossbench_table": table})


def encode(table: pa.Table) -> bytes:
    """A table as the bytes of a parquet file: zstd, dictionaries, split floats, page checksums."""
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


def decode(content: bytes, *, path: Path) -> pa.Table:
    """The table in a parquet file of ours.

    Args:
        content: Bytes of the file.
        path: Where they came from, for the message.

    Raises:
        store.StoreError: Not a parquet file, a foreign one, or one of another schema.
    """
    try:
        table = pq.read_table(io.BytesIO(content), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise store.StoreError(f"{path}: not a readable parquet file ({error}).") from error
    found = (table.schema.metadata or {}).get(b"lossbench_schema", b"none").decode()
    if found != str(SCHEMA):
        raise store.StoreError(
            f"{path}: schema {found}, this version reads schema {SCHEMA}. "
            "Run the sweep again into another name=..."
        )
    return table


class Records:
    """What a sweep left behind, read when asked for.

    Attributes:
        runs, steps, layers, evals: The tables as pandas frames, one row per run_id in `runs`;
            planned runs without a record have status "missing".
        plan: Content of sweep.json.
    """

    def __init__(self, sweep_dir: Path) -> None:
        self.sweep_dir = sweep_dir
        self.plan = read_plan(sweep_dir / "sweep.json")

    @cached_property
    def pack_dirs(self) -> list[Path]:
        """Folders of the packs that are finished."""
        folders = sorted((self.sweep_dir / "packs").glob("*"))
        return [folder for folder in folders if (store.committed(folder) or {}).get("is_finished")]

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row per planned run, of several records the best; what left the plan is left out.

        Beside the columns of the table, `planned_context` is the plan's hash of all factors but
        loss, seed and what is tuned, `planned_params` the loss's parameters as JSON: missing runs
        have no configuration that would tell them.
        """
        recorded = self._read("runs")
        recorded = recorded[recorded["run_id"].isin(list(self.plan["planned"]))]
        rank = recorded["status"].map({status: rank for rank, status in enumerate(STATUSES)})
        order = recorded.assign(rank=rank).sort_values(["rank", "pack_id"], kind="stable")
        best = order.drop_duplicates("run_id").drop(columns="rank").sort_index()
        planned = pd.DataFrame.from_dict(self.plan["planned"], orient="index")
        planned = planned.rename_axis("run_id").reset_index().assign(status="missing")
        missing = planned[~planned["run_id"].isin(best["run_id"])].to_dict("records")
        columns = {name: [row.get(name) for row in missing] for name in best.columns}
        together = [part for part in (best, pd.DataFrame(columns)) if len(part)]
        runs = pd.concat(together, ignore_index=True) if together else best
        facts = self.plan["planned"]
        contexts = {run_id: one.get("context") for run_id, one in facts.items()}
        params = {run_id: json.dumps(one.get("params", {})) for run_id, one in facts.items()}
        return runs.assign(
            planned_context=runs["run_id"].map(contexts), planned_params=runs["run_id"].map(params)
        )

    @cached_property
    def steps(self) -> pd.DataFrame:
        """Run x logged step."""
        return self._kept(self._read("steps"))

    @cached_property
    def layers(self) -> pd.DataFrame:
        """Run x logged step x layer."""
        return self._kept(self._read("layers"))

    @cached_property
    def evals(self) -> pd.DataFrame:
        """Run x eval step x split x metric."""
        return self._kept(self._read("evals"))

    @cached_property
    def curves(self) -> pd.DataFrame:
        """The losses over error or prediction; no rows where they were not written."""
        path = self.sweep_dir / "curves.parquet"
        if not path.exists():
            return pd.DataFrame()
        cure = "Give the sweep's command again: it is written anew."
        content = store.read_hashed(path, self.plan["curves_sha"], cure=cure)
        return pq.read_table(io.BytesIO(content)).to_pandas()

    def sql(self, query: str, **frames: pd.DataFrame) -> pd.DataFrame:
        """Result of a DuckDB query over the views runs, steps, layers and evals.

        Reads the verified parquet files themselves, so tables larger than memory can be asked.

        Args:
            query: In SQL.
            frames: More tables, by the name that the query gives them.
        """
        import duckdb

        kept = self.runs[self.runs["status"] != "missing"][["run_id", "pack_id"]]
        with duckdb.connect() as connection:
            for name, frame in {"kept": kept, **frames}.items():
                connection.register(name, frame)
            for table in (name for name in TABLES if name in query.lower()):
                files = ", ".join(_quoted(path) for path in self._files(table))
                connection.register(f"empty_{table}", schema(table).empty_table())
                source = (
                    f"read_parquet([{files}], union_by_name = true)" if files else f"empty_{table}"
                )
                connection.execute(
                    f"create view {table} as select * from {source} "
                    "semi join kept using (run_id, pack_id)"
                )
            return connection.execute(query).df()

    def _files(self, table: str) -> Iterator[Path]:
        for folder in self.pack_dirs:
            store.read(folder, f"{table}.parquet")
            yield folder / f"{table}.parquet"

    def _read(self, table: str) -> pd.DataFrame:
        name = f"{table}.parquet"
        parts = [decode(store.read(folder, name), path=folder / name) for folder in self.pack_dirs]
        if not parts:
            return schema(table).empty_table().to_pandas()
        return pa.concat_tables(parts, promote_options="permissive").to_pandas()

    def _kept(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Rows of the record that `runs` kept, where a run was recorded more than once."""
        kept = self.runs.set_index("run_id")["pack_id"]
        return frame[frame["pack_id"] == frame["run_id"].map(kept)].reset_index(drop=True)


def read_plan(path: Path) -> dict[str, Any]:
    """Content of a sweep.json.

    Raises:
        store.StoreError: It is missing, torn or not one of ours.
    """
    plan = store.read_sealed(path)
    keys = {"name", "planned", "declarations", "losses", "data", "commands"}
    if not keys <= plan.keys():
        raise store.StoreError(
            f"{path}: not a plan of lossbench. Delete it and give the sweep's command again: "
            "finished runs are kept."
        )
    for entry in plan["declarations"]:
        if store.sha256(store.to_json(entry["declared"])) != entry["sha256"]:
            raise store.StoreError(
                f"{path}: a declaration was edited after the fact. Restore it, or give the new "
                "question its own folder with name=..."
            )
    return plan


QUESTIONS = ("essay",)
"""Sections that an experiment may ask its report for."""


SAYINGS: dict[str, dict[str, str]] = {
    "better": {
        "better": "confirmed",
        "different but below the margin": "not confirmed",
        "equivalent": "not confirmed",
        "worse": "not confirmed",
        "diverges": "not confirmed",
    },
    "worse": {
        "worse": "confirmed",
        "diverges": "confirmed",
        "different but below the margin": "not confirmed",
        "equivalent": "not confirmed",
        "better": "not confirmed",
    },
    "not_worse": {
        "better": "confirmed",
        "different but below the margin": "confirmed",
        "equivalent": "confirmed",
        "worse": "not confirmed",
        "diverges": "not confirmed",
    },
}
"""What a published claim may say of a loss, and what each verdict makes of it; any other verdict
leaves it not distinguishable."""


REPORTS = {
    "all": "tables, page and every figure",
    "verdicts": "tables and page, drawn in it the verdicts alone",
    "none": "nothing; `lossbench report` writes it whenever it is wanted",
}
"""What an experiment writes when it is done, typed as `report=`."""


def declared(choices: Mapping[str, Any], *, data: str, task: str) -> Any:
    """What a declaration chose for a data set: under its own name, else under its task's.

    Args:
        choices: Like `primary` or `margin`, by name of a data set or by task.
        data: Name of the data set.
        task: "regression" or "classification".

    Returns:
        The choice; None where there is none.
    """
    return choices.get(data, choices.get(task))


def load(sweep_dir: str | Path) -> Records:
    """The records of a sweep.

    Args:
        sweep_dir: Folder of the sweep, `runs/NAME`.

    Raises:
        store.StoreError: The folder is no sweep, or a file is unreadable, altered or foreign.
    """
    folder = Path(sweep_dir)
    if not (folder / "sweep.json").is_file():
        raise store.StoreError(
            f"{folder} is not a sweep: it has no sweep.json. Name a folder below runs/, "
            "like 'lossbench report runs/essay'."
        )
    return Records(folder)


def table_from(table: str, columns: Mapping[str, Any]) -> pa.Table:
    """Columns as an Arrow table with the declared types and order.

    Raises:
        KeyError: A declared column is missing.
    """
    layout = schema(table)
    arrays = [pa.array(columns[field.name], type=field.type) for field in layout]
    return pa.Table.from_arrays(arrays, schema=layout)


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


_INTRO = """\
# Records

Written by `python -m lossbench.records > docs/records.md`; a test keeps it fresh.

`lossbench.records.load("runs/NAME")` gives the four tables of a sweep as pandas frames, `.runs`,
`.steps`, `.layers` and `.evals`, and `.sql(query)` asks all of them through DuckDB. `.runs` has one
row per planned run: where a run was recorded twice, done comes before diverged before failed, and
one without a record has the status missing (`.sql` sees only what was recorded). On disk the tables
are parquet files below `runs/NAME/packs/`, schema number {schema}; `commit.json` beside them names
each with its sha256.
"""


_LOSSES = (
    (OWN_LOSS, "mean of the run's own loss at its own parameters"),
    (
        "loss:NAME",
        "mean of loss NAME at its default parameters, where the inverse link is the same; on test "
        "at the last step only, because it describes trained models",
    ),
)


def document() -> str:
    """The text of docs/records.md: every column and every metric with unit and better direction."""
    heading = "| {} | type | unit | better | meaning |\n|---|---|---|---|---|"
    parts = [_INTRO.format(schema=SCHEMA)]
    for table, columns in COLUMNS.items():
        rows = [_row(c.name, str(c.type), c.unit, c.direction, c.about) for c in columns]
        parts.append("\n".join([f"## {table}\n", heading.format("column"), *rows, ""]))
    rows = [_row(name, m.task, m.unit, m.direction, m.about) for name, m in METRICS.items()]
    head = heading.format("metric").replace("type", "task")
    rows += [_row(name, "either", "unit of the loss", "lower", about) for name, about in _LOSSES]
    parts.append("\n".join(["## Metrics\n", head, *rows, ""]))
    return "\n".join(parts)


def _row(name: str, *cells: str) -> str:
    return f"| `{name}` | " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    sys.stdout.write(document())
