"""docs/gallery.md: what came out of each experiment, written from its records alone.

`python -m lossbench.report.gallery runs` reads every sweep below `runs` that is named like an
experiment (so at its own size), and writes `docs/gallery.md` with its pictures in `docs/gallery/`.
"""

from __future__ import annotations

import itertools
import math
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

import lossbench
from lossbench import records, statistics, store
from lossbench.report import drawings, methods, pictures
from lossbench.statistics import Comparison, published

FOLD = 8
"""More verdicts than this are folded."""

SETTLED = ("better", "worse", "equivalent")
"""First words of verdicts that settle a question."""

LOST = (("loss", "diverged"), ("reference", "reference_diverged"))
"""Who diverged, and in how many runs, in a row of verdicts."""

INTRO = """# What came out

Written by `python -m lossbench.report.gallery runs`, from the records of the sweeps below `runs`
that are named like an experiment. Nothing here was written by hand: verdicts are those of the
declared protocol ([protocol.md](protocol.md)), and a published finding is judged by the verdict
on its own comparison. **Confirmed** and **not confirmed** speak of the data, model and budget that
were run here, not of the paper's; **not distinguishable** means that the seeds do not settle it,
and **exploratory** that the loss was added after the declaration.
"""


def write(runs: Path, docs: Path) -> Path:
    """Write gallery.md and its pictures.

    Args:
        runs: Folder of the sweeps.
        docs: Where `gallery.md` and `gallery/` go.

    Returns:
        Path of gallery.md.

    Raises:
        store.StoreError: A file of a sweep is unreadable, altered or foreign.
    """
    names = sorted(path.stem for path in (lossbench.CONF / "experiment").glob("*.yaml"))
    there = [name for name in names if (runs / name / "sweep.json").exists()]
    parts = [INTRO, *(_section(runs / name, docs / "gallery") for name in there)]
    store.write(docs / "gallery.md", "\n".join(parts).encode())
    return docs / "gallery.md"


def question(name: str) -> str:
    """What an experiment asks: the header of its file, from `Question:` to its question mark."""
    text = (lossbench.CONF / "experiment" / f"{name}.yaml").read_text()
    header = " ".join(line[2:] for line in text.splitlines() if line.startswith("# "))
    match = re.search(r"Question: (.+?\?|.+?\.)", header)
    return match[1][0].upper() + match[1][1:] if match else ""


def _section(folder: Path, pictures_in: Path) -> str:
    """Question, command, picture, verdicts and published findings of one sweep."""
    loaded = records.load(folder)
    mains = statistics.main_comparisons(loaded)
    commands = "\n".join(loaded.plan.get("commands", []))
    lines = [f"## {folder.name}", "", question(folder.name), "", "```bash", commands, "```", ""]
    lines += [" ".join(methods.machine(loaded.runs)), *_complete(loaded), ""]
    lines += [
        f"![{title}](gallery/{file})\n" for file, title in _pictures(loaded, mains, pictures_in)
    ]
    lines += [*_verdicts(mains), *_findings(published.judged_findings(loaded))]
    objections = statistics.objections(loaded, statistics.all_comparisons(loaded))
    lines += [f"- Objection: {one}" for one in objections]
    return "\n".join([*lines, ""])


def _complete(loaded: records.Records) -> Iterator[str]:
    counts = loaded.runs.status.value_counts()
    statuses = ", ".join(f"{count:,} {status}" for status, count in counts.items())
    yield f"{len(loaded.runs):,} runs: {statuses}."


def _pictures(
    loaded: records.Records, mains: list[Comparison], pictures_in: Path
) -> Iterator[tuple[str, str]]:
    """Draw the verdicts; name and title of each picture that now lies in `pictures_in`."""
    losses = {(row.loss, str(row.family)) for row in loaded.runs.itertuples()}
    with tempfile.TemporaryDirectory() as place:
        drawn = pictures.draw_all(Path(place), drawings.verdicts(mains), workers=1, losses=losses)
        for picture in drawn:
            name = f"{loaded.sweep_dir.name}_{picture.name}.png"
            store.write(pictures_in / name, (Path(place) / f"{picture.name}.png").read_bytes())
            yield name, picture.title


def _verdicts(mains: list[Comparison]) -> Iterator[str]:
    """Tables of verdicts, one for all that are alike but in task and loss."""
    rows = [row for task in mains for row in task.verdicts.to_dict("records")]
    for heading, alike in itertools.groupby(sorted(rows, key=_heading), key=_heading):
        lines = [_verdict(row) for row in alike]
        table = [
            f"{heading}:",
            "",
            "| task | loss | difference | n | verdict |",
            "|---|---|---|---|---|",
        ]
        table += [*lines, ""]
        if len(lines) > FOLD:
            summary = f"<details><summary>All {len(lines)} verdicts</summary>"
            table = [summary, "", *table, "</details>", ""]
        yield from table
    yield from (f"- {task.label}: no verdict. {task.refusal}" for task in mains if task.refusal)
    yield ""


def _heading(row: Mapping[str, Any]) -> str:
    """What a row compares, but for its task and loss."""
    how = records.CONDITIONS[row["condition"]].about.format(reference=row["reference"])
    unit = "" if row["unit"] == "1" else f" in {row['unit']}"
    return (
        f"After {row['steps']:,} updates, {how}: {row['metric']} minus that of {row['reference']}"
        f"{unit}, {row['direction']} is better, n pairs of seeds, "
        f"{100 * row['confidence']:g} % simultaneous intervals"
    )


def _verdict(row: Mapping[str, Any]) -> str:
    """One row of a table of verdicts."""
    first, *_ = row["verdict"].split(" ")
    stressed = f"**{first}**" if first in SETTLED else first
    notes = [stressed + row["verdict"][len(first) :]]
    if row["still_improving"]:
        notes.append("validation was still improving")
    if row["exploratory"]:
        notes.append("exploratory")
    notes += [f"{row[name]} diverged in {row[count]}" for name, count in LOST if row[count]]
    interval = _interval(row, row["estimate"])
    cells = [row["task"], row["loss"], interval, str(row["n"]), "; ".join(notes)]
    return f"| {' | '.join(cells)} |"


def _interval(row: Mapping[str, Any], difference: float) -> str:
    if not row["n"]:
        return "–"
    is_bounded = math.isfinite(row["low"])
    bounds = f" [{row['low']:+.3g}, {row['high']:+.3g}]" if is_bounded else ""
    return f"{difference:+.3g}{bounds}"


def _findings(findings: pd.DataFrame) -> Iterator[str]:
    """The table of published findings; nothing where none was declared."""
    if findings.empty:
        return
    yield from ("### Published findings", "")
    yield "| finding | source | here | difference [simultaneous interval] | n | judged |"
    yield "|---|---|---|---|---|---|"
    yield from (_finding(row) for row in findings.to_dict("records"))
    yield ""


def _finding(row: Mapping[str, Any]) -> str:
    if row["judged"] == published.NOT_RUN:
        cells = [row["finding"], row["source"], row["loss"], "", "", f"**{row['judged']}**"]
        return f"| {' | '.join(cells)} |"
    interval = f"{row['metric']} {_interval(row, row['difference'])}"
    here = f"{row['loss']} minus {row['reference']} on {row['task']}"
    judged = f"**{row['judged']}** ({row['verdict']})"
    cells = [row["finding"], row["source"], here, interval, str(row["n"]), judged]
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Entry point of `python -m lossbench.report.gallery`; returns its exit code."""
    places = [Path(word) for word in sys.argv[1:3]]
    runs, docs = (*places, *(Path("runs"), Path("docs"))[len(places) :])
    sys.stdout.write(f"{write(runs, docs)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
