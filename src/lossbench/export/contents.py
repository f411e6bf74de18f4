"""Contents of an export, for any tool.

Names of curves follow the records: `steps/COLUMN` for the table steps, `SPLIT/METRIC` for evals,
and `best/SPLIT/METRIC` at a run's best step.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lossbench import records, statistics, store
from lossbench.progress import progress

ENDS = {"done": True, "diverged": True, "failed": False}
"""Whether a tool shows a run as finished, by status; divergence is a result, not a failure."""


@dataclass(frozen=True)
class Export:
    """Contents of an export.

    Attributes:
        sweep: The sweep.
        runs: Rows of the table `runs` to write, with `title` (data/model/loss/lr/seed), `chosen`
            (whether the run is behind a verdict) and `ended` (time when the run ended, seconds
            since 1970).
        verdicts: Verdicts as in `lossbench report --json`.
    """

    sweep: records.Records
    runs: pd.DataFrame
    verdicts: pd.DataFrame

    @property
    def name(self) -> str:
        """Name of the sweep."""
        return str(self.sweep.plan["name"])

    def table(self, name: str) -> pd.DataFrame:
        """Rows of a table of the records for the runs to write."""
        frame = getattr(self.sweep, name)
        return frame[frame.run_id.isin(self.runs.run_id)]

    def __iter__(self) -> Iterator[tuple[Any, list[tuple[int, str, float]]]]:
        """Each run that was recorded, and its curves: (step, tag, value), in the order of steps.

        A value of NaN gives no point.
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
        with progress(len(self.runs), unit="run", title="exporting") as bar:
            for run in self.runs.itertuples():
                if run.status != "missing":
                    its = by_run.get(run.run_id, points.iloc[:0])
                    yield run, [*zip(its.step.tolist(), its.tag, its.value.tolist(), strict=True)]
                bar.update()


_KEYS = frozenset(column.name for column in records.KEYS)


def titled(sweep: records.Records) -> pd.DataFrame:
    """Runs with a readable title each, which no other run has, and the time when the run ended."""
    runs = statistics.placed(sweep.runs, tuned=statistics.declaration_of(sweep.plan)["tuned"])

    def title(run: Any) -> str:
        parts = [*re.split(" [×·] ", run.label), run.loss, f"lr={run.lr:g}", f"seed={run.seed}"]
        safe = [re.sub(r"[^\w=.,+-]+", "=", part.strip())[:80].lstrip(".") for part in parts]
        return "/".join(part or "_" for part in safe)

    titles = pd.Series([title(run) for run in runs.itertuples()], runs.index, dtype=str)
    is_double = titles.str.casefold().duplicated(keep=False)
    # The time when a run ended is not recorded; the commit of its pack was written at that time.
    ends = {folder.name: (folder / store.COMMIT).stat().st_mtime for folder in sweep.pack_dirs}
    return runs.assign(
        title=titles.mask(is_double, titles + "/" + runs.run_id),
        ended=runs.pack_id.map(ends),
        loss=sweep.runs.loss,
    )


def parameters(run: Any) -> dict[str, bool | int | float | str]:
    """Configuration by dotted name, as in `loss.params.delta`; `loss.name` becomes `loss`."""
    flat = {} if not run.config else statistics.factors(run.config)
    return {
        name.removesuffix(".name"): value
        if isinstance(value, bool | int | float | str)
        else json.dumps(value)
        for name, value in flat.items()
        if name != "source_sha"
    }


def facts(run: Any) -> dict[str, str]:
    """Identity and end of a run, as text."""
    names = ("run_id", "pack_id", "task", "family", "status", "reason", "device", "chosen")
    facts = {name: getattr(run, name) for name in names}
    steps = {name: getattr(run, name) for name in ("stop_step", "best_step")}
    # A column of steps holds floats if a run is missing.
    facts |= {name: int(step) for name, step in steps.items() if pd.notna(step)}
    return {f"lossbench.{name}": str(value) for name, value in facts.items() if value != ""}


def markdown(verdicts: pd.DataFrame, *, most: int) -> str:
    """Verdicts as a table of at most `most` letters, with the number of verdicts left out."""
    lines = ["| context | loss | reference | difference | verdict |", "|---|---|---|---|---|"]
    for row in verdicts.itertuples():
        numbers = [
            "–" if pd.isna(value) else f"{value:+.3g}"  # if no pair is left
            for value in (row.estimate, row.low, row.high)
        ]
        where = records.CONDITIONS[row.condition].short
        difference = "{} [{}, {}]".format(*numbers)
        cells = [f"{row.context}, {where}", row.loss, row.reference, difference, row.verdict]
        lines.append("| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |")
    text, left = "\n".join(lines), 0
    while len(text) > most - 60:
        lines.pop()
        left += 1
        text = "\n".join(lines)
    return f"{text}\n\n{left} more: lossbench report" if left else text


def seconds(run: Any) -> float:
    """Training time of a run in seconds; 0 if unknown."""
    return 0.0 if pd.isna(run.train_seconds) else float(run.train_seconds)
