"""The four tables a sweep leaves behind: their columns, their parquet files, and how to load them.

No torch here: everything after training (statistics, figures, report) starts from `load`.
"""

from __future__ import annotations

import io
import json
import re
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
    "as_given": Condition(
        "exploratory", "each loss at the best of the learning rates given", "as given"
    ),
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
        _text("batch_sha", "sha256 of the whole stream of batch indices, and of its augmentation"),
        _text("data_sha", "sha256 of all splits"),
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
            "that of another loss of the task; those of instruments are measured on one batch",
        ),
        _measure(
            "value",
            "see metrics",
            "see metrics",
            "the metric over the whole split, of train over its first 10,000 examples",
        ),
    ),
}


SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Metric:
    """What a metric is.

    Attributes:
        task: "regression" or "classification"; empty where it serves both.
        unit: Of its values.
        direction: The better one, "lower" or "higher"; empty where neither is, so that nothing is
            ranked by it.
        about: In words.
        is_final: Whether it is measured at the last step only, on validation and test.
        needs: What beside its task a loss must predict to have it, in words; empty if nothing.
        splits: Those that have it. What has no validation chooses no learning rate, and what has no
            test is nothing to be judged by.
    """

    task: str
    unit: str
    direction: str
    about: str
    is_final: bool = False
    needs: str = ""
    splits: tuple[str, ...] = SPLITS


_HELD_OUT = ("validation", "test")
_STANDARD = "standard deviations of the training target"
_DISTRIBUTION = "a distribution"
_QUANTILE = "a quantile"

METRICS: dict[str, Metric] = {
    "rmse": Metric("regression", _STANDARD, "lower", "root mean squared error; best at the mean"),
    "mae": Metric("regression", _STANDARD, "lower", "mean absolute error; best at the median"),
    "median_ae": Metric("regression", _STANDARD, "lower", "median absolute error"),
    "r2": Metric("regression", "1", "higher", "1 - squared error / variance of the split's target"),
    "crps": Metric(
        "regression",
        _STANDARD,
        "lower",
        "continuous ranked probability score of the predicted distribution, mean over targets",
        needs=_DISTRIBUTION,
        splits=_HELD_OUT,
    ),
    "coverage_90": Metric(
        "regression",
        "1",
        "",
        "share of targets inside the central 90 % interval of the predicted distribution",
        needs=_DISTRIBUTION,
        splits=_HELD_OUT,
    ),
    "quantile_coverage": Metric(
        "regression",
        "1",
        "",
        "share of targets at or below the prediction",
        needs=_QUANTILE,
        splits=_HELD_OUT,
    ),
    "coverage_error": Metric(
        "regression",
        "1",
        "lower",
        "absolute difference of coverage_90 from 0.9, or of quantile_coverage from the level that "
        "the loss has as its parameter",
        needs=f"{_DISTRIBUTION} or {_QUANTILE}",
        splits=_HELD_OUT,
    ),
    "accuracy": Metric("classification", "1", "higher", "share of labels that are the largest p"),
    "balanced_accuracy": Metric(
        "classification",
        "1",
        "higher",
        "mean over classes of the share of their examples that have the largest p there; classes "
        "without examples are left out",
    ),
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
        "the first 2,000 examples of validation in the same way for every loss (so in-sample "
        "there); under label noise those labels are noisy, which pushes every loss towards them",
    ),
    "ece": Metric(
        "classification", "1", "lower", "expected calibration error after the same recalibration"
    ),
    "ece_adaptive": Metric(
        "classification",
        "1",
        "lower",
        "ece in 15 bins of equal mass in place of equal width, after the same recalibration",
        is_final=True,
        splits=_HELD_OUT,
    ),
    "auroc": Metric(
        "classification",
        "1",
        "higher",
        "area under the ROC curve after the same recalibration, ties counted half: of class 1 "
        "where there are two, else mean of each class against the rest; classes without examples "
        "are left out",
        is_final=True,
        splits=_HELD_OUT,
    ),
    "aurc": Metric(
        "classification",
        "1",
        "lower",
        "area under the risk-coverage curve: mean over k of the share of errors among the k "
        "examples with the largest p after the same recalibration, equal ones in random order",
        is_final=True,
        splits=_HELD_OUT,
    ),
    "brier_reliability": Metric(
        "classification",
        "1",
        "lower",
        "of brier = reliability - resolution + uncertainty: squared gap between mean p and share "
        "of labels in each of 15 bins of p, weighted by examples and summed over classes",
        is_final=True,
        splits=_HELD_OUT,
    ),
    "brier_resolution": Metric(
        "classification",
        "1",
        "higher",
        "of the same: squared gap between the share of labels in each bin and in the split, and "
        "what the bins do not tell apart: minus the variance of p inside them, plus twice its "
        "covariance with the label",
        is_final=True,
        splits=_HELD_OUT,
    ),
    "brier_uncertainty": Metric(
        "classification",
        "1",
        "",
        "of the same: sum over classes of share (1 - share), a fact of the split alone",
        is_final=True,
        splits=_HELD_OUT,
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
        splits=("test",),
    ),
    "accuracy_clean": Metric(
        "classification",
        "1",
        "higher",
        "accuracy on validation by the labels before label noise; only under label noise, and "
        "nothing is selected by it",
        splits=("validation",),
    ),
    "memorised": Metric(
        "classification",
        "1",
        "lower",
        "of the training examples with a wrong label the share that is predicted as that label; "
        "only under label noise",
        splits=("train",),
    ),
    "recovered": Metric(
        "classification",
        "1",
        "higher",
        "of the training examples with a wrong label the share that is predicted as its true "
        "label; only under label noise",
        splits=("train",),
    ),
    "rmse_clean": Metric(
        "regression",
        _STANDARD,
        "lower",
        "rmse on validation by the targets before outliers; only under outliers, and nothing is "
        "selected by it",
        splits=("validation",),
    ),
}

CLEAN = {"regression": "rmse_clean", "classification": "accuracy_clean"}
"""What validation without corruption would have selected by."""


@dataclass(frozen=True)
class Instrument:
    """What is measured beside the metrics, when asked for with `instruments=[...]`.

    Attributes:
        about: In words.
        cost: Updates that one measurement takes as long as, measured with
            `benchmarks/instruments.py` and rounded up; it is taken so seldom that it costs 5 % of
            training or less between the two ends, which are measured too.
        metrics: What it writes into `evals`, split train: values of one training batch at the
            parameters before an update. None of them judges a model.
        source: Where it comes from.
    """

    about: str
    cost: float
    metrics: dict[str, Metric]
    source: str = ""


_SHARE = "share of the batch's sum of squared L2 norms of the own loss's output gradient that "

INSTRUMENTS: dict[str, Instrument] = {
    "error_signal": Instrument(
        about="which examples drive the update",
        cost=0.1,
        metrics={
            "signal_hardest": Metric(
                "",
                "1",
                "",
                _SHARE + "the tenth of the examples (rounded up) with the largest error has",
            ),
            "signal_mislabelled": Metric(
                "", "1", "", _SHARE + "examples with a corrupted target have; only with corruption"
            ),
            "mislabelled_share": Metric(
                "", "1", "", "share of the batch whose target is corrupted; only with corruption"
            ),
        },
    ),
    "loss_quantiles": Instrument(
        about="how the own loss is spread over examples",
        cost=0.1,
        metrics={
            f"loss_quantile_{level}": Metric(
                "", "unit of the loss", "lower", f"{level} % quantile of the own loss over examples"
            )
            for level in (10, 50, 90, 99)
        },
        source="linear interpolation, type 7 of Hyndman and Fan 1996, The American Statistician",
    ),
    "representation": Instrument(
        about="what the last hidden layer makes of the classes, and how large outputs are",
        cost=1.0,
        metrics={
            "class_scatter": Metric(
                "",
                "1",
                "",
                "scatter of the last linear layer's inputs within classes over that of the class "
                "means, tr(S_W)/tr(S_B), over the batch; only labels",
            ),
            "output_norm": Metric(
                "", "output", "", "mean over the batch of the L2 norm of the output"
            ),
        },
        source="Papyan, Han and Donoho 2020, PNAS; the ratio of traces in place of their "
        "tr(S_W pinv(S_B))/C",
    ),
    "gradient_agreement": Instrument(
        about="whether other losses would move the parameters the same way",
        cost=7.0,
        metrics={},
    ),
    "gradient_noise": Instrument(
        about="how much the gradient differs from batch to batch",
        cost=8.0,
        metrics={
            "gradient_noise_trace": Metric(
                "",
                "(loss/parameter)²",
                "",
                "trace of the covariance of examples' gradients of all parameters, unbiased",
            ),
            "gradient_square": Metric(
                "",
                "(loss/parameter)²",
                "",
                "squared L2 norm of the expected gradient, unbiased, so it may be negative",
            ),
            "gradient_noise_scale": Metric(
                "",
                "examples",
                "",
                "gradient_noise_trace / gradient_square: the batch size at which noise and "
                "gradient are alike; only where the latter is positive",
            ),
        },
        source="McCandlish, Kaplan, Amodei et al. 2018, arXiv 1812.06162, appendix A.1",
    ),
    "curvature": Instrument(
        about="how sharply the mean own loss bends",
        cost=70.0,
        metrics={
            "curvature_top": Metric(
                "",
                "loss/parameter²",
                "",
                "largest eigenvalue of the Hessian of the batch's mean own loss",
            ),
            "curvature_trace": Metric(
                "", "loss/parameter²", "", "trace of the same Hessian, estimated without bias"
            ),
        },
        source="Lanczos 1950; Hutchinson 1990; Pearlmutter 1994, Neural Computation",
    ),
    "sharpness": Instrument(
        about="what the step itself meets",
        cost=8.0,
        metrics={
            "step_curvature": Metric(
                "",
                "loss/parameter²",
                "",
                "u^T H u / |u|² for the update u and the Hessian H of the batch's mean own loss",
            ),
            "step_loss_change": Metric(
                "",
                "unit of the loss",
                "lower",
                "mean own loss over the same batch after the update, minus that before",
            ),
        },
        source="Pearlmutter 1994, Neural Computation",
    ),
}
"""Instruments by name, in the order they are told."""

AGREEMENT = "agreement:"
"""Begins the metrics of the instrument gradient_agreement: `agreement:NAME`."""

_AGREEMENT = Metric(
    "",
    "1",
    "",
    "cosine of the gradients of all parameters of own loss and loss NAME at its defaults, at the "
    "same weights and batch; where the inverse link is the same",
)
_MEASURED = {name: metric for one in INSTRUMENTS.values() for name, metric in one.metrics.items()}


OWN_LOSS = "loss:own"
"""Metric: the mean of a run's own loss at its own parameters."""

OF_CLASS = re.compile(r"accuracy:(0|[1-9][0-9]*)")
"""Metrics that are the accuracy of one class, by its number."""

_OF_CLASS = Metric(
    "classification",
    "1",
    "higher",
    "accuracy on the examples of one class, of at most 20; none where the split has no such "
    "example",
    is_final=True,
    splits=_HELD_OUT,
)


def metric_of(name: str) -> Metric:
    """The row of a metric, an instrument's too; of `loss:NAME` and `agreement:NAME` without task.

    Raises:
        ValueError: The metric is in no table, and neither `loss:own`, `loss:NAME`,
            `agreement:NAME` nor `accuracy:CLASS`.
    """
    if name.startswith("loss:"):
        return Metric("", "unit of the loss", "lower", "mean of a loss")
    if name.startswith(AGREEMENT):
        return _AGREEMENT
    if OF_CLASS.fullmatch(name):
        return _OF_CLASS
    if name in _MEASURED:
        return _MEASURED[name]
    if name not in METRICS:
        raise ValueError(f"metric {name!r} is unknown: use one of {', '.join(METRICS)}")
    return METRICS[name]


def direction(metric: str) -> str:
    """The better direction of a metric: "lower" or "higher"; empty where neither is.

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
}
"""What a published claim may say of a loss, and what each verdict makes of it; any other verdict
leaves it not distinguishable."""

NOT_WORSE = "not_worse"
"""The third that it may say; the interval of the gain and the margin judge it, not the verdict."""

FACTORS = ("data", "model", "optimizer", "schedule")
"""Groups whose choice a published claim may name by the word alone: `where: { data: digits }`."""


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


_OF_INSTRUMENTS = """\
## Metrics of instruments

Measured where a run asks for them with `instruments=[...]` (docs/instruments.md), on the batch of
one update, at the parameters before it: split train.
"""


def document() -> str:
    """The text of docs/records.md: every column and every metric with unit and better direction."""
    heading = "| {} | type | unit | better | meaning |\n|---|---|---|---|---|"
    parts = [_INTRO.format(schema=SCHEMA)]
    for table, columns in COLUMNS.items():
        rows = [_row(c.name, str(c.type), c.unit, c.direction, c.about) for c in columns]
        parts.append("\n".join([f"## {table}\n", heading.format("column"), *rows, ""]))
    measured = METRICS | {"accuracy:CLASS": _OF_CLASS}
    rows = [_row(name, m.task, m.unit, m.direction, _told(m)) for name, m in measured.items()]
    head = heading.format("metric").replace("type", "task")
    rows += [_row(name, "either", "unit of the loss", "lower", about) for name, about in _LOSSES]
    parts.append("\n".join(["## Metrics\n", head, *rows, ""]))
    measured = _MEASURED | {f"{AGREEMENT}NAME": _AGREEMENT}
    rows = [_row(name, "either", m.unit, m.direction, m.about) for name, m in measured.items()]
    parts.append("\n".join([_OF_INSTRUMENTS, head, *rows, ""]))
    return "\n".join(parts)


def _told(metric: Metric) -> str:
    """What a metric is, and when and for which losses it is measured."""
    needs = f"; only losses that predict {metric.needs}, never on train" if metric.needs else ""
    when = "; at the last step only, on validation and test" if metric.is_final else ""
    return metric.about + needs + when


def _row(name: str, *cells: str) -> str:
    return f"| `{name}` | " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    sys.stdout.write(document())
