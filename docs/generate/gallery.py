"""docs/gallery.md: the result of each experiment, written from its records alone.

`python docs/generate/gallery.py runs` reads every sweep below `runs` that is named like an
experiment (so at its own size), and writes `docs/gallery.md` with its pictures in `docs/gallery/`.
The section of an experiment without a sweep there, or with one that lacks runs, stays.
"""

from __future__ import annotations

import itertools
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

import pandas as pd

import lossbench
from lossbench import records, statistics, store
from lossbench.report import drawings, methods, objections, pictures, summary, words
from lossbench.report.answers import answers
from lossbench.statistics import Comparison, published

FOLD = 8
"""More verdicts than this are folded."""

WORDS = """| verdict | the interval of the gain, margin m |
|---|---|
| better by more than m, worse by more than m | lies wholly beyond m |
| better, worse | leaves zero out |
| different, by less than m | leaves zero out and lies wholly within m |
| equivalent within m | includes zero and lies wholly within m |
| undecided with n seeds, about k would decide it | includes zero and reaches beyond m; with k \
seeds the chance of a verdict is 80 %, were mean and spread as seen (of medians roughly) |
| undecided with n seeds, at least k give an interval | a median of so few seeds has none |
"""
"""As docs/protocol.md has it."""

INTRO = """# What came out

Written by `python docs/generate/gallery.py runs`, from the records of the sweeps below `runs`
that are named like an experiment; for the others the page keeps the text of an earlier version,
which names its software. Nothing here was written by hand: sentences and verdicts are made from
the records, by the protocol that each experiment declared before its first run
([protocol.md](protocol.md)).

{words}
An interval holds that other seeds would differ, and that other seeds would have chosen other
learning rates. Intervals are simultaneous **within a context**, over its losses and its looks at a
growing number of seeds: of twenty contexts, one may well show a difference that is not there.
**Still improving**: in most runs of the loss or its reference validation was best at the last
update, so a longer training may turn the verdict. *Most clearly* better or worse is the
comparison whose interval stays furthest from zero.

A published finding is judged by its own comparison, on the data, model and budget that were run
here, not on the paper's. All findings of one writing are judged together: q is the p-value of each,
adjusted for the rate of false discoveries among them all (Benjamini and Hochberg), and a finding
is confirmed where its interval and q ≤ 0.05 both say so. It is **exploratory** where the loss was
added after the declaration, or its runs had been seen.
"""


def write(runs: Path, docs: Path) -> Path:
    """Write gallery.md and its pictures, and delete those that it shows no more.

    Args:
        runs: Folder of the sweeps.
        docs: Where `gallery.md` and `gallery/` go.

    Returns:
        Path of gallery.md.

    Raises:
        store.StoreError: A file of a sweep is unreadable, altered or foreign.
    """
    names = sorted(path.stem for path in (lossbench.CONF / "experiment").glob("*.yaml"))
    before, results = _sections(docs / "gallery.md"), {}
    for name in names:
        if (runs / name / "sweep.json").exists():
            loaded = records.load(runs / name)
            is_whole = loaded.runs.status.isin(records.RESULTS).all()
            if not summary.is_smoke(loaded.plan) and (is_whole or name not in before):
                results[name] = _result(loaded, docs / "gallery")
    # All findings of this writing are judged together.
    tables = [result.findings for result in results.values()]
    tables = [pd.DataFrame(columns=published.COLUMNS), *tables]
    findings = published.as_family(pd.concat(tables).reset_index(drop=True))
    sections, start = dict(before), 0
    for name, result in results.items():
        mine = findings.iloc[start : start + len(result.findings)]
        start += len(mine)
        lines = [*result.lines, *_findings(mine), *_objections(result.objections)]
        sections[name] = "\n".join([question(name), "", *lines])
    parts = [INTRO.format(words=WORDS)]
    parts += [f"## {name}\n\n{sections[name].strip()}\n" for name in names if name in sections]
    text = "\n".join(parts)
    store.write(docs / "gallery.md", text.encode())
    for picture in (docs / "gallery").glob("*.png"):  # of a gallery before
        if f"gallery/{picture.name})" not in text:
            picture.unlink()
    return docs / "gallery.md"


def _sections(page: Path) -> dict[str, str]:
    """What a page says of each experiment, by its name."""
    text = page.read_text() if page.exists() else ""
    return dict(re.findall(r"^## (\w+)\n\n(.*?)(?=^## |\Z)", text, re.M | re.S))


def question(name: str) -> str:
    """What an experiment asks: the header of its file, from `Question:` to its question mark."""
    return records.question_in((lossbench.CONF / "experiment" / f"{name}.yaml").read_text())


@dataclass(frozen=True)
class Result:
    """What the gallery says of one experiment.

    Attributes:
        lines: Answer, command, picture and verdicts, or why there are none.
        findings: Published ones, each judged on its own.
        objections: Of a strict reader.
    """

    lines: list[str]
    findings: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=published.COLUMNS))
    objections: list[str] = field(default_factory=list)


def _result(loaded: records.Records, pictures_in: Path) -> Result:
    judged = statistics.Verdicts(loaded)
    mains = judged.mains
    lines = [f"{sentence}\n" for sentence in (*answers(judged), *_analyses(loaded.sweep_dir))]
    commands = "\n".join(loaded.plan.get("commands", []))
    lines += ["```bash", commands, "```", ""]
    lines += [" ".join([*_complete(loaded), *methods.machine(loaded.runs)]), ""]
    lines += [
        f"![{title}](gallery/{file})\n" for file, title in _pictures(loaded, mains, pictures_in)
    ]
    lines += _verdicts(mains)
    against = objections.of_sweep(loaded, judged.comparisons)
    return Result(lines, published.findings_of(judged), against)


def _analyses(sweep: Path) -> Iterator[str]:
    """Lines printed by the scripts in `analysis/` that an experiment's yaml names."""
    header = (lossbench.CONF / "experiment" / f"{sweep.name}.yaml").read_text()
    for script in re.findall(r"^# Analysis: python (analysis/\w+\.py) ", header, re.M):
        command = [sys.executable, Path(__file__).parents[2] / script, sweep]
        yield from subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True
        ).stdout.splitlines()


def _objections(objections: Sequence[str]) -> Iterator[str]:
    """What a strict reader would object, folded."""
    if objections:
        yield f"<details><summary>What a strict reader would object ({len(objections)})</summary>"
        yield from ("", *(f"- {one}" for one in objections), "", "</details>", "")


def _complete(loaded: records.Records) -> Iterator[str]:
    counts = loaded.runs.status.value_counts()
    statuses = ", ".join(f"{count:,} {status}" for status, count in counts.items())
    yield f"{len(loaded.runs):,} runs: {statuses}."


def _pictures(
    loaded: records.Records, mains: list[Comparison], pictures_in: Path
) -> Iterator[tuple[str, str]]:
    """Draw the verdicts; name and title of each picture that now lies in `pictures_in`."""
    losses = drawings.losses_by_task(loaded)
    with tempfile.TemporaryDirectory() as place:
        titles = pictures.save(Path(place), drawings.verdicts(mains), workers=1, losses=losses)
        for name, title in titles.items():
            file = f"{loaded.sweep_dir.name}_{name}.png"
            store.write(pictures_in / file, (Path(place) / f"{name}.png").read_bytes())
            yield file, title


def _verdicts(mains: list[Comparison]) -> Iterator[str]:
    """Tables of verdicts, one for all that are alike but in context and loss."""
    rows = [
        (_heading(row, comparison), row)
        for comparison in mains
        for row in words.verdicts_of(comparison).to_dict("records")
    ]
    for heading, alike in itertools.groupby(sorted(rows, key=itemgetter(0)), key=itemgetter(0)):
        lines = [_verdict(row) for _, row in alike]
        table = [
            f"{heading}:",
            "",
            "| context | loss | difference [interval] | n | verdict | still improving | to know |",
            "|---|---|---|---|---|---|---|",
        ]
        table += [*lines, ""]
        if len(lines) > FOLD:
            summary_line = f"<details><summary>All {len(lines)} verdicts</summary>"
            table = [summary_line, "", *table, "</details>", ""]
        yield from table
    yield from (
        f"- {comparison.label}: no verdict. {comparison.refusal}"
        for comparison in mains
        if comparison.refusal
    )
    yield ""


def _heading(row: Mapping[str, Any], comparison: Comparison) -> str:
    """What a row compares, but for its context and loss."""
    how = records.CONDITIONS[row["condition"]].about.format(reference=row["reference"])
    unit = "" if row["unit"] == "1" else f" in {row['unit']}"
    over = "its losses"
    if len(comparison.rule.looks) > 1:
        over += f" and its looks at {words.listed(comparison.rule.looks)} seeds"
    return (
        f"After {row['steps']:,} updates, {how}: {row['metric']} minus that of {row['reference']}"
        f"{unit}, {row['direction']} is better, margin ±{row['margin']:g}, n pairs of seeds, "
        f"{100 * row['confidence']:g} % intervals, simultaneous within a context over {over}"
    )


def _verdict(row: Mapping[str, Any]) -> str:
    """One row of a table of verdicts."""
    is_settled = row["verdict"].startswith(("better", "worse", "equivalent", "different"))
    verdict = f"**{row['verdict']}**" if is_settled else row["verdict"]
    is_improving = "yes" if row["still_improving"] else ""
    notes = summary.caveats({**row, "still_improving": False}, is_declared=True)
    interval = _interval(row, row["estimate"])
    cells = [row["context"], row["loss"], interval, str(row["n"]), verdict, is_improving]
    return f"| {' | '.join([*cells, '; '.join(notes)])} |"


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
    yield "| finding | source | here | difference [simultaneous interval] | n | q | judged |"
    yield "|---|---|---|---|---|---|---|"
    yield from (_finding(row) for row in findings.to_dict("records"))
    yield ""


def _finding(row: Mapping[str, Any]) -> str:
    if row["judged"] == published.NOT_RUN:
        cells = [row["finding"], row["source"], row["loss"], "", "", "", f"**{row['judged']}**"]
        return f"| {' | '.join(cells)} |"
    interval = f"{row['metric']} {_interval(row, row['difference'])}"
    here = f"{row['loss']} minus {row['reference']} on {row['context']}"
    judged = f"**{row['judged']}** ({row['verdict']})"
    q = f"{row['q']:.2g}" if math.isfinite(row["q"]) else "–"
    cells = [row["finding"], row["source"], here, interval, str(row["n"]), q, judged]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    runs = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs")
    sys.stdout.write(f"{write(runs, Path(__file__).parents[1])}\n")
