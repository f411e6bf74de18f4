"""Tools to which a sweep can be exported, each with the tool's own package."""

from __future__ import annotations

import importlib
import importlib.util

import pandas as pd

from lossbench import records, statistics
from lossbench.export import plain
from lossbench.export.contents import ENDS, Export, titled

TARGETS = {
    "tensorboard": "tensorboard",
    "mlflow": "mlflow",
    "wandb": "wandb",
    "csv": "pyarrow",
}
"""Package that the export to a tool needs, by the typed name of the tool.

The file of the same name in this folder has `write(export, into)`, which returns the place of the
export and how to look at it. The file and the package are imported only for an export to the tool.
"""


def export(sweep: records.Records, *, to: str, into: str = "", is_whole: bool = False) -> str:
    """Export a sweep to another tool; a second export adds missing runs and duplicates none.

    Args:
        sweep: Records of the sweep.
        to: Name of the tool, a key of `TARGETS`.
        into: For tensorboard and csv a folder (empty: export/TOOL in the sweep's), for mlflow its
            tracking URI (empty: mlflow's default), for wandb [ENTITY/]PROJECT (empty: the name of
            the sweep).
        is_whole: Whether all runs are written; if not, the runs behind the verdicts, each loss at
            its chosen learning rate.

    Returns:
        Number of runs, the place of the export, and the command that shows the export.

    Raises:
        ValueError: The tool is not installed or refuses, the folder has files of another origin,
            or the sweep has no finished run.
    """
    package = TARGETS[to]
    if importlib.util.find_spec(package) is None:
        raise ValueError(f"--to {to} needs the package {package}: pip install 'lossbench[{to}]'")
    target = importlib.import_module(f"lossbench.export.{to}")
    judged = statistics.Verdicts(sweep)
    chosen = {run_id for one in judged for run_id in one.runs.run_id}
    runs = titled(sweep).assign(chosen=lambda frame: frame.run_id.isin(chosen))
    runs = runs if is_whole else runs[runs.chosen]
    if not runs.status.isin(ENDS).any():
        raise ValueError(f"{sweep.sweep_dir} has no finished run to export: train it first")
    verdicts = pd.DataFrame(plain.verdicts(judged)["verdicts"], columns=[*plain.FIELDS])
    count = int(runs.status.isin(ENDS).sum())
    return f"{count:,} runs to {to}: {target.write(Export(sweep, runs, verdicts), into)}"
