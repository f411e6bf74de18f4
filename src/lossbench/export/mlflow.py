"""Runs of an MLflow experiment."""

# pyright: reportMissingImports=false
from __future__ import annotations

import mlflow
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from lossbench.export.contents import ENDS, Export, facts, markdown, parameters, seconds


def write(export: Export, into: str) -> str:
    """Write runs to an experiment with the sweep's name; of finished runs only `chosen` changes."""
    uri = into or mlflow.get_tracking_uri()
    try:
        client = mlflow.MlflowClient(tracking_uri=uri)
        known = client.get_experiment_by_name(export.name)
        experiment = known.experiment_id if known else client.create_experiment(export.name)
        client.set_experiment_tag(
            experiment, "mlflow.note.content", markdown(export.verdicts, most=5000)
        )
        there, token = {}, None
        while token != "":
            page = client.search_runs([experiment], max_results=1000, page_token=token)
            there |= {run.data.tags.get("lossbench.run_id"): run.info for run in page}
            token = page.token or ""
        for run, points in export:
            tags = {"mlflow.runName": run.title, **facts(run)}
            if old := there.get(run.run_id):
                if old.status != "RUNNING":
                    client.set_tag(old.run_id, "lossbench.chosen", tags["lossbench.chosen"])
                    continue
                client.delete_run(old.run_id)  # the export was interrupted here
            end = int(run.ended * 1000)
            start = end - int(seconds(run) * 1000)
            new = client.create_run(experiment, start, tags).info.run_id
            params = [Param(name, str(value)) for name, value in parameters(run).items()]
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
