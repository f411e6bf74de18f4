"""Export to TensorBoard: a folder of events for each run, and a table for HParams."""

# pyright: reportMissingImports=false
from __future__ import annotations

import io
import itertools
from operator import itemgetter
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2, summary_v2
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from lossbench import records, store
from lossbench.export.contents import ENDS, Export, facts, markdown, parameters, seconds
from lossbench.export.folder import marked_folder

EVENTS = "events.out.tfevents.lossbench"
"""Name of the file of every run, always the same, so that a second export replaces the file."""


def write(export: Export, into: str) -> str:
    """Write a folder of events per run, and a file with the verdicts and the table of HParams."""
    folder = marked_folder(export, into, "tensorboard")

    def write_events(place: Path, time: float, summaries: list[tuple[int, Summary]]) -> Path:
        buffer = io.BytesIO()
        writer = RecordWriter(buffer)
        writer.write(Event(wall_time=time, file_version="brain.Event:2").SerializeToString())
        for step, one in summaries:
            writer.write(Event(wall_time=time, step=step, summary=one).SerializeToString())
        store.write(place / EVENTS, buffer.getvalue())
        return place / EVENTS

    written, settings = set(), []
    for run, points in export:
        settings.append(parameters(run))
        status = api_pb2.STATUS_SUCCESS if ENDS[run.status] else api_pb2.STATUS_FAILURE
        start = summary_v2.hparams_pb(settings[-1], run.run_id, run.ended - seconds(run))
        listed = "\n".join(f"- {name}: {value}" for name, value in facts(run).items())
        summaries = [(0, start), (0, text_pb("run", listed))]
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
        written.add(write_events(folder / run.title, run.ended, summaries))
    names = dict.fromkeys(name for one in settings for name in one)
    values = {name: [one[name] for one in settings if name in one] for name in names}
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
        (0, text_pb("verdicts", markdown(export.verdicts, most=1_000_000))),
    ]
    written.add(write_events(folder, last, head))
    for path in {*folder.rglob(EVENTS)} - written:  # files of runs that are no longer exported
        path.unlink()
    return f"{folder}  (tensorboard --logdir {folder})"
