"""Runs of a Weights & Biases project."""

# pyright: reportMissingImports=false
from __future__ import annotations

import itertools
from operator import itemgetter

import wandb

from lossbench.export.contents import ENDS, Export, facts, parameters


def write(export: Export, into: str) -> str:
    """Write each run by run_id, grouped over seeds, and one more run with the table of verdicts."""
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
                config={**parameters(run), **facts(run)},
            ) as there:
                for step, at in itertools.groupby(points, key=itemgetter(0)):
                    if step >= there.step:  # an earlier export has logged smaller steps
                        there.log({tag: value for _, tag, value in at}, step=step)
                if not ENDS[run.status]:
                    there.finish(exit_code=1)
        name = f"verdicts-{export.name}"
        with wandb.init(**shared, settings=settings, id=name, name="verdicts") as there:
            there.log({"verdicts": wandb.Table(dataframe=export.verdicts)})
    except wandb.Error as error:
        raise ValueError(f"wandb refuses: {error}") from error
    return f"project {into or export.name}  (offline runs: wandb sync wandb/offline-run-*)"
