"""The tools that a sweep can be written for, each by its own package."""

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
"""By what is typed the package that it needs.

The file of the same name here has `write(export, into)`, which returns where that is and how to
look at it; it is imported, and with it the package, when it is asked for.
"""


def export(sweep: records.Records, *, to: str, into: str = "", is_whole: bool = False) -> str:
    """Write a sweep for another tool; a second export adds missing runs and doubles none.

    Args:
        sweep: Its records.
        to: A name in `TARGETS`.
        into: For tensorboard and csv a folder (empty: export/TOOL in the sweep's), for mlflow its
            tracking URI (empty: the one that mlflow takes), for wandb [ENTITY/]PROJECT (empty: the
            name of the sweep).
        is_whole: All runs; else those behind the verdicts, each loss at its chosen learning rate.

    Returns:
        The place that was written to, and the command that shows it.

    Raises:
        ValueError: The tool is not installed or refuses, the folder is not ours, or the
            sweep has nothing to write.
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
