"""Input of `lossbench try`: a Trial of the functions in a file, and the overrides of a Trial."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lossbench import claims, records
from lossbench.claims import kind
from lossbench.errors import ConfigError, refuse_unknown
from lossbench.losses import LOSSES
from lossbench.user_code import Examination, add, examine, file_and_line, losses_in, module_of

log = logging.getLogger(__name__)

NEAREST = 4
"""Number of losses of the catalog that a trial compares with, in addition to the reference."""


@dataclass(frozen=True)
class Trial:
    """Losses of a file and the losses to compare them with.

    Attributes:
        against: Names of the losses to compare with, the reference first.
        task: "regression" or "classification", the task of all losses.
    """

    losses: Sequence[Examination]
    against: Sequence[str]
    task: str

    @property
    def question(self) -> str:
        """Question of the trial in words."""
        names = " or ".join(one.row.name for one in self.losses)
        return f"Is {names} better than {self.against[0]}?"

    def overrides(self, name: str, *, data: str = "", model: str = "") -> list[str]:
        """Overrides for a sweep on the standard data sets, or on the given data and model."""
        tried = [one.row.name for one in self.losses]
        lines = [f"loss={','.join(dict.fromkeys([*self.against, *tried]))}", f"name={name}"]
        if not (data or model):
            return [f"experiment=try_{self.task}", *lines]
        usual = {"regression": "diabetes", "classification": "digits"}[self.task]
        return ["experiment=compare", f"data={data or usual}", f"model={model or 'mlp'}", *lines]


def prepared(
    path: Path, names: Sequence[str] = (), *, task: str = "", link: str = "", against: str = ""
) -> Trial:
    """Examine the functions of a file, and choose the losses to compare them with.

    Args:
        path: The file.
        names: Names of functions in the file; if empty, all losses of the file.
        task: Task of all functions; if empty, the task is measured.
        link: Inverse link of all functions; if empty, the link is measured.
        against: Names of losses to compare with, separated by commas; if empty, the nearest.

    Raises:
        ConfigError: A function is missing or not a loss, or the tasks of losses differ.
    """
    module = module_of(path)
    functions = [*losses_in(module, names)]
    examinations = examine(functions, task=task, link=link, leave_out=not names)
    # Losses that draw random numbers have no measured task: they are refused or left out.
    drawing = [one for one in examinations if kind.DRAWS in one.row.unsound and not task]
    for one in drawing:
        file, line = file_and_line(one.row)
        problem = (
            f"{file}, line {line}: {one.row.name} draws random numbers, so what it is for cannot "
            "be measured: say it, with --task regression or classification"
        )
        if names or len(drawing) == len(examinations):
            raise ConfigError(problem)
        log.warning("left out: %s", problem)
    examinations = [one for one in examinations if one not in drawing]
    tasks = {one.row.task for one in examinations}
    if len(tasks) > 1:
        kinds = ", ".join(f"{one.row.name} {one.row.task}" for one in examinations)
        raise ConfigError(f"{path}: {kinds}: try those of one task at a time, by name")
    (task,) = tasks
    rows = [one.row for one in examinations]
    add(*rows)
    others = [row for row in LOSSES.values() if row not in rows and row.domain == "real"]
    if against:
        chosen = against.split(",")
        for name in chosen:
            refuse_unknown(name, LOSSES, "--against")
            if LOSSES[name].task != task:
                raise ConfigError(f"--against {name}: it is for {LOSSES[name].task}, not {task}")
    else:
        near = [[*claims.nearest(row, others, count=NEAREST)] for row in rows]
        # The nearest loss of each function comes before the second nearest of any function.
        chosen = [*dict.fromkeys(itertools.chain(*zip(*near, strict=False)))][:NEAREST]
    return Trial(examinations, [*dict.fromkeys([records.REFERENCE[task], *chosen])], task)
