"""A fair trial of functions in a file: what they are, then standard tasks, until it is settled."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lossbench import catalog, claims, records, statistics
from lossbench.claims import kind
from lossbench.errors import ConfigError, refuse_unknown
from lossbench.losses import LOSSES
from lossbench.report import words
from lossbench.user_code import Examination, add, examine, file_and_line, losses_in, module_of

log = logging.getLogger(__name__)

NEAREST = 4
"""Losses of the catalog that a trial adds, beside the reference."""


@dataclass(frozen=True)
class Challenge:
    """What is tried.

    Attributes:
        losses: Those of the file.
        against: Others, the reference first.
        task: Of all of them.
    """

    losses: Sequence[Examination]
    against: Sequence[str]
    task: str

    @property
    def question(self) -> str:
        """What is asked."""
        names = " or ".join(one.row.name for one in self.losses)
        return f"Is {names} better than {self.against[0]}?"

    def overrides(self, name: str, *, data: str = "", model: str = "") -> list[str]:
        """What `lossbench` is asked for: the standard tasks, or one of one's own choice."""
        tried = [one.row.name for one in self.losses]
        lines = [f"loss={','.join(dict.fromkeys([*self.against, *tried]))}", f"name={name}"]
        if not (data or model):
            return [f"experiment=try_{self.task}", *lines]
        usual = {"regression": "diabetes", "classification": "digits"}[self.task]
        return ["experiment=compare", f"data={data or usual}", f"model={model or 'mlp'}", *lines]


def prepared(
    path: Path, names: Sequence[str] = (), *, task: str = "", link: str = "", against: str = ""
) -> Challenge:
    """Examine the functions of a file, measure their claims, and choose their opponents.

    Args:
        path: The file.
        names: Of functions in it; all that take an output and a target, if empty.
        task: Of all of them; empty: measured.
        link: Likewise, the inverse link.
        against: Names of losses, by commas; empty: the nearest.

    Raises:
        ConfigError: The file has no such function, or none is a loss; says the line.
    """
    module = module_of(path)
    functions = [*losses_in(module, names)]
    examinations = examine(functions, task=task, link=link, leave_out=not names)
    if not task:
        examinations = _of_measured_task(examinations, leave_out=not names)
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
        # Of several functions the nearest of each first.
        chosen = [*dict.fromkeys(itertools.chain(*zip(*near, strict=False)))][:NEAREST]
    return Challenge(examinations, [*dict.fromkeys([records.REFERENCE[task], *chosen])], task)


def _of_measured_task(examinations: Sequence[Examination], *, leave_out: bool) -> list[Examination]:
    """Those whose task could be measured; others are refused, or left out with a warning."""
    drawing = [one for one in examinations if kind.DRAWS in one.row.unsound]
    for one in drawing:
        file, line = file_and_line(one.row)
        problem = (
            f"{file}, line {line}: {one.row.name} draws random numbers, so what it is for cannot "
            "be measured: say it, with --task regression or classification"
        )
        if not leave_out or len(drawing) == len(examinations):
            raise ConfigError(problem)
        log.warning("left out: %s", problem)
    return [one for one in examinations if one not in drawing]


def cards(challenge: Challenge, *, width: int) -> Iterator[str]:
    """What was measured of each function, in short, a line each."""
    for one in challenge.losses:
        row, (file, line) = one.row, file_and_line(one.row)
        held = [name for name, verdict in one.verdicts.items() if verdict.holds]
        yield f"{row.name}  ({file}, line {line})"
        what = f"{row.task} behind the inverse link {row.inverse_link}"
        if one.why:
            what += f": {one.why} (--task and --link say otherwise)"
        yield from catalog.hanging("  it is    ", what, width)
        count = f"{len(held)} of {len(one.verdicts)} claims: {', '.join(held) or 'none'}"
        yield from catalog.hanging("  holds    ", count, width)
        same = [
            name if abs(factor - 1) < 1e-9 else f"{factor:.4g} {name}"
            for name, factor in claims.duplicates(row, LOSSES.values()).items()
        ]
        if same:
            yield from catalog.hanging(
                "  is       ", f"{', '.join(same)}, up to the learning rate", width
            )
        faults = [*row.unsound]
        if "gradient_is_derivative" not in held and kind.DRAWS not in faults:
            witness = one.verdicts["gradient_is_derivative"].witness
            faults.append(
                "its gradient is not its derivative, by something detached or a backward of its "
                f"own: {witness}"
            )
        if row.task == "regression" and "minimised_at_target" not in held:
            faults.append("is not least where the prediction is the target")
        for fault in faults:
            yield from catalog.hanging("  unsound  ", fault, width)
        yield ""
    yield from catalog.hanging("  against  ", ", ".join(challenge.against), width)


def sentences(challenge: Challenge, verdicts: Iterable[statistics.Comparison]) -> Iterator[str]:
    """What came out for each function of the file, a sentence a task."""
    defaults = {one.row.name: one.row.defaults for one in challenge.losses}
    for task in verdicts:
        for row in words.verdicts_of(task).to_dict("records"):
            name, _, params = row["loss"].rstrip(")").partition("(")
            # Beside a version with other defaults its own stand behind its name.
            its_own = {f"{key}={value}" for key, value in defaults.get(name, {}).items()}
            if name in defaults and {*filter(None, params.split(", "))} <= its_own:
                yield words.sentence(row)
