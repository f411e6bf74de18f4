"""A sweep for the tool that a researcher has open: TensorBoard, MLflow, Weights & Biases, or CSV.

Each tool is written by its own package, which is imported when it is asked for. The names are those
of the records: `steps/COLUMN` of the table steps, `SPLIT/METRIC` of evals, and `best/SPLIT/METRIC`
at a run's best step.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import importlib.util
import io
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv
from tqdm import tqdm

from lossbench import records, statistics, store
from lossbench.report import plain

MARK = "lossbench.json"
"""In a folder that was exported to: of which sweep, for what."""

EVENTS = "events.out.tfevents.lossbench"
"""One file a run, always the same name, so that a run exported twice is there once."""

ENDS = {"done": True, "diverged": True, "failed": False}
"""Whether a tool calls a run with the status finished: to diverge is a result."""


@dataclass(frozen=True)
class Export:
    """What is written of a sweep.

    Attributes:
        sweep: The sweep.
        runs: Of the table `runs` those to write, with their `title` (data/model/loss/lr/seed),
            whether they are `chosen` (behind a verdict), and when they ended (`ended`, seconds
            since 1970).
        verdicts: As in `lossbench report --json`.
    """

    sweep: records.Records
    runs: pd.DataFrame
    verdicts: pd.DataFrame

    @property
    def name(self) -> str:
        """Of the sweep."""
        return str(self.sweep.plan["name"])

    def table(self, name: str) -> pd.DataFrame:
        """A table of records, as far as the runs to write are in it."""
        frame = getattr(self.sweep, name)
        return frame[frame.run_id.isin(self.runs.run_id)]

    def __iter__(self) -> Iterator[tuple[Any, list[tuple[int, str, float]]]]:
        """Each run that was recorded, and its curves: (step, tag, value), in the order of steps.

        Where there is no value (NaN) there is no point.
        """
        keys = ["run_id", "step"]
        steps, evals = self.table("steps"), self.table("evals")
        columns = [column.name for column in records.COLUMNS["steps"]]
        signals = [name for name in columns if name not in {*keys, *_KEYS}]
        primary = evals.run_id.map(self.runs.set_index("run_id").task).map(records.PRIMARY)
        best = evals.run_id.map(self.runs.set_index("run_id").best_step)
        is_best = (evals.metric == primary) & (evals.step == best) & (evals.split != "train")
        tags = evals.split + "/" + evals.metric
        parts = [
            *(steps[keys].assign(tag=f"steps/{name}", value=steps[name]) for name in signals),
            evals[keys].assign(tag=tags, value=evals.value),
            evals[keys].assign(tag="best/" + tags, value=evals.value)[is_best],
        ]
        points = pd.concat(parts, ignore_index=True).dropna().sort_values(keys, kind="stable")
        by_run = dict([*points.groupby("run_id", sort=False)[["step", "tag", "value"]]])
        for run in tqdm([*self.runs.itertuples()], unit="run", disable=None, leave=False):
            if run.status != "missing":
                its = by_run.get(run.run_id, points.iloc[:0])
                yield run, [*zip(its.step.tolist(), its.tag, its.value.tolist(), strict=True)]


_KEYS = frozenset(column.name for column in records.KEYS)


def export(sweep: records.Records, *, to: str, into: str = "", is_whole: bool = False) -> str:
    """Write a sweep for another tool; the same again adds what is missing and doubles nothing.

    Args:
        sweep: Its records.
        to: A name in `TOOLS`.
        into: For tensorboard and csv a folder (empty: export/TOOL in the sweep's), for mlflow its
            tracking URI (empty: what mlflow itself takes), for wandb [ENTITY/]PROJECT (empty: the
            name of the sweep).
        is_whole: All runs; else those behind the verdicts, each loss at its chosen learning rate.

    Returns:
        What was written, and how to look at it.

    Raises:
        ValueError: The tool is not installed or refuses, the folder is not ours, or the
            sweep has nothing to write.
    """
    package, write = TOOLS[to]
    if package and importlib.util.find_spec(package) is None:
        raise ValueError(f"--to {to} needs the package {package}: pip install 'lossbench[{to}]'")
    comparisons = statistics.main_comparisons(sweep)
    chosen = {run_id for one in comparisons for run_id in one.runs.run_id}
    runs = _titled(sweep).assign(chosen=lambda frame: frame.run_id.isin(chosen))
    runs = runs if is_whole else runs[runs.chosen]
    if not runs.status.isin(ENDS).any():
        raise ValueError(f"{sweep.sweep_dir} has no finished run to export: train it first")
    verdicts = pd.DataFrame(plain.verdicts(sweep)["verdicts"], columns=[*plain.FIELDS])
    count = int(runs.status.isin(ENDS).sum())
    return f"{count:,} runs to {to}: {write(Export(sweep, runs, verdicts), into)}"


def _titled(sweep: records.Records) -> pd.DataFrame:
    """The runs with a readable title each that no other has, and the time when they ended."""
    runs = statistics.placed(sweep.runs, tuned=statistics.declaration_of(sweep.plan)["tuned"])

    def title(run: Any) -> str:
        parts = [*re.split(" [×·] ", run.label), run.loss, f"lr={run.lr:g}", f"seed={run.seed}"]
        safe = [re.sub(r"[^\w=.,+-]+", "=", part.strip())[:80].lstrip(".") for part in parts]
        return "/".join(part or "_" for part in safe)

    titles = pd.Series([title(run) for run in runs.itertuples()], runs.index, dtype=str)
    is_double = titles.str.casefold().duplicated(keep=False)
    # Nothing records when a run ended; its pack's commit was written then.
    ends = {folder.name: (folder / store.COMMIT).stat().st_mtime for folder in sweep.pack_dirs}
    return runs.assign(
        title=titles.mask(is_double, titles + "/" + runs.run_id),
        ended=runs.pack_id.map(ends),
        loss=sweep.runs.loss,
    )


def _parameters(run: Any) -> dict[str, bool | int | float | str]:
    """The configuration by dotted name; a choice goes by its group: `loss`, `loss.params.delta`."""
    flat = {} if not run.config else statistics.factors(run.config)
    return {
        name.removesuffix(".name"): value
        if isinstance(value, bool | int | float | str)
        else json.dumps(value)
        for name, value in flat.items()
        if name != "source_sha"
    }


def _facts(run: Any) -> dict[str, str]:
    """What a run is known by and came to, as text."""
    names = ("run_id", "pack_id", "task", "family", "status", "reason", "device", "chosen")
    facts = {name: getattr(run, name) for name in names}
    steps = {name: getattr(run, name) for name in ("stop_step", "best_step")}
    # A column of steps holds floats where a run is missing.
    facts |= {name: int(step) for name, step in steps.items() if pd.notna(step)}
    return {f"lossbench.{name}": str(value) for name, value in facts.items() if value != ""}


def _markdown(verdicts: pd.DataFrame, *, most: int) -> str:
    """Verdicts as a table of at most so many letters; says how many were left out."""
    lines = ["| task | loss | reference | difference | verdict |", "|---|---|---|---|---|"]
    for row in verdicts.itertuples():
        numbers = [f"{value:+.3g}" for value in (row.estimate, row.low, row.high)]
        where = records.CONDITIONS[row.condition].short
        difference = "{} [{}, {}]".format(*numbers)
        cells = [f"{row.task}, {where}", row.loss, row.reference, difference, row.verdict]
        lines.append("| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |")
    text, left = "\n".join(lines), 0
    while len(text) > most - 60:
        lines.pop()
        left += 1
        text = "\n".join(lines)
    return f"{text}\n\n{left} more: lossbench report" if left else text


# ---- folders -------------------------------------------------------------------------------------


def _folder(export: Export, into: str, tool: str) -> Path:
    """The folder to write to, marked; refused where it has files of others."""
    folder = Path(into) if into else export.sweep.sweep_dir / "export" / tool
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--into {folder} is a file: name a folder, which is made")
    mark = store.to_json({"sweep": export.name, "tool": tool})
    path = folder / MARK
    if (
        folder.is_dir()
        and any(folder.iterdir())
        and not (path.is_file() and store.read_file(path) == mark)
    ):
        raise ValueError(
            f"{folder} is not empty, and not an export of {export.name} to {tool}: "
            "name another folder with --into"
        )
    store.write(path, mark)
    return folder


def _to_csv(export: Export, into: str) -> str:
    folder = _folder(export, into, "csv")
    for table in tqdm(records.TABLES, unit="table", disable=None, leave=False):
        columns = [column.name for column in records.COLUMNS[table]]
        frame = export.runs if table == "runs" else export.table(table)
        arrow = pa.Table.from_pandas(frame[columns], records.schema(table), preserve_index=False)
        store.write(folder / f"{table}.csv", _csv(arrow))
    verdicts = pa.Table.from_pandas(export.verdicts, preserve_index=False)
    store.write(folder / "verdicts.csv", _csv(verdicts))
    return f"{folder}  (in Python: pandas.read_csv)"


def _csv(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pyarrow.csv.write_csv(table, buffer)
    return buffer.getvalue()


def _to_tensorboard(export: Export, into: str) -> str:
    """One folder of events a run, beside one file with the verdicts and what HParams shows."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2, summary_v2
    from tensorboard.plugins.text.summary_v2 import text_pb
    from tensorboard.summary.writer.record_writer import RecordWriter

    folder = _folder(export, into, "tensorboard")

    def write(place: Path, time: float, summaries: list[tuple[int, Any]]) -> Path:
        buffer = io.BytesIO()
        writer = RecordWriter(buffer)
        writer.write(Event(wall_time=time, file_version="brain.Event:2").SerializeToString())
        for step, one in summaries:
            writer.write(Event(wall_time=time, step=step, summary=one).SerializeToString())
        store.write(place / EVENTS, buffer.getvalue())
        return place / EVENTS

    written, parameters = set(), []
    for run, points in export:
        parameters.append(_parameters(run))
        status = api_pb2.STATUS_SUCCESS if ENDS[run.status] else api_pb2.STATUS_FAILURE
        start = summary_v2.hparams_pb(parameters[-1], run.run_id, run.ended - _seconds(run))
        facts = "\n".join(f"- {name}: {value}" for name, value in _facts(run).items())
        summaries = [(0, start), (0, text_pb("run", facts))]
        for step, at in itertools.groupby(points, key=itemgetter(0)):
            scalars = [Summary.Value(tag=tag, simple_value=value) for _, tag, value in at]
            summaries.append((step, Summary(value=scalars)))
        info = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=run.ended)
        end = metadata.create_summary_metadata(
            plugin_data_pb2.HParamsPluginData(session_end_info=info)
        )
        tag, tensor = metadata.SESSION_END_INFO_TAG, metadata.NULL_TENSOR
        value = Summary.Value(tag=tag, metadata=end, tensor=tensor)
        summaries.append((int(run.stop_step), Summary(value=[value])))
        written.add(write(folder / run.title, run.ended, summaries))
    names = dict.fromkeys(name for one in parameters for name in one)
    values = {name: [one[name] for one in parameters if name in one] for name in names}
    hparams = [
        summary_v2.HParam(name, summary_v2.Discrete(sorted({*column})))
        for name, column in values.items()
        if len({*column}) > 1 and len({type(value) for value in column}) == 1
    ]
    primary = dict.fromkeys(export.runs.task.dropna().map(records.PRIMARY))
    places = ("test", "validation", "best/validation")
    metrics = [summary_v2.Metric(f"{place}/{name}") for name in primary for place in places]
    last = float(export.runs.ended.max())
    head = [
        (0, summary_v2.hparams_config_pb(hparams, metrics, last)),
        (0, text_pb("verdicts", _markdown(export.verdicts, most=1_000_000))),
    ]
    written.add(write(folder, last, head))
    for path in {*folder.rglob(EVENTS)} - written:  # no longer behind a verdict
        path.unlink()
    return f"{folder}  (tensorboard --logdir {folder})"


def _seconds(run: Any) -> float:
    return 0.0 if pd.isna(run.train_seconds) else float(run.train_seconds)


# ---- services ------------------------------------------------------------------------------------


def _to_mlflow(export: Export, into: str) -> str:
    """One run each in an experiment of the sweep's name; those that are there are left alone."""
    import mlflow
    from mlflow.entities import Metric, Param
    from mlflow.exceptions import MlflowException

    uri = into or mlflow.get_tracking_uri()
    try:
        client = mlflow.MlflowClient(tracking_uri=uri)
        known = client.get_experiment_by_name(export.name)
        experiment = known.experiment_id if known else client.create_experiment(export.name)
        client.set_experiment_tag(
            experiment, "mlflow.note.content", _markdown(export.verdicts, most=5000)
        )
        there, token = {}, None
        while token != "":
            page = client.search_runs([experiment], max_results=1000, page_token=token)
            there |= {run.data.tags.get("lossbench.run_id"): run.info for run in page}
            token = page.token or ""
        for run, points in export:
            facts = _facts(run)
            if old := there.get(run.run_id):
                if old.status != "RUNNING":
                    client.set_tag(old.run_id, "lossbench.chosen", facts["lossbench.chosen"])
                    continue
                client.delete_run(old.run_id)  # the export was interrupted here
            end = int(run.ended * 1000)
            start = end - int(_seconds(run) * 1000)
            tags = {"mlflow.runName": run.title, **facts}
            new = client.create_run(experiment, start, tags).info.run_id
            params = [Param(name, str(value)) for name, value in _parameters(run).items()]
            for first in range(0, len(params), 100):
                client.log_batch(new, params=params[first : first + 100])
            metrics = [Metric(tag, value, end, step) for step, tag, value in points]
            for first in range(0, len(metrics), 1000):
                client.log_batch(new, metrics[first : first + 1000])
            client.set_terminated(new, "FINISHED" if ENDS[run.status] else "FAILED", end)
        for run_id in there.keys() - {*export.runs.run_id[export.runs.chosen]} - {None}:
            client.set_tag(there[run_id].run_id, "lossbench.chosen", "False")
    except MlflowException as error:
        raise ValueError(f"mlflow at {uri} refuses: {error}") from error
    return f"experiment {export.name} at {uri}  (mlflow ui --backend-store-uri {uri})"


def _to_wandb(export: Export, into: str) -> str:
    """One run each, by run_id, grouped over seeds; one more has the table of verdicts."""
    import wandb

    entity, _, project = (into or export.name).rpartition("/")
    shared = {"project": project, "entity": entity or None, "resume": "allow"}
    settings = wandb.Settings(silent=True, console="off")
    try:
        for run, points in export:
            with wandb.init(
                **shared,
                settings=settings,
                id=run.run_id,
                name=run.title,
                group=run.title.rpartition("/seed=")[0],
                tags=[run.status, *(["chosen"] if run.chosen else [])],
                config={**_parameters(run), **_facts(run)},
            ) as there:
                for step, at in itertools.groupby(points, key=itemgetter(0)):
                    if step >= there.step:  # else an earlier export has it
                        there.log({tag: value for _, tag, value in at}, step=step)
                if not ENDS[run.status]:
                    there.finish(exit_code=1)
        name = f"verdicts-{export.name}"
        with wandb.init(**shared, settings=settings, id=name, name="verdicts") as there:
            there.log({"verdicts": wandb.Table(dataframe=export.verdicts)})
    except wandb.Error as error:
        raise ValueError(f"wandb refuses: {error}") from error
    return f"project {into or export.name}  (offline runs: wandb sync wandb/offline-run-*)"


TOOLS: Mapping[str, tuple[str, Callable[[Export, str], str]]] = {
    "tensorboard": ("tensorboard", _to_tensorboard),
    "mlflow": ("mlflow", _to_mlflow),
    "wandb": ("wandb", _to_wandb),
    "csv": ("", _to_csv),
}
"""By what is typed the package that it needs, if any, and what writes."""
