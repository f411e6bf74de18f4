"""docs/gallery.md: what came out of each experiment, written from its records alone.

`python -m lossbench.gallery runs` reads every sweep below `runs` that is named like an experiment
(so at its own size), and writes `docs/gallery.md` with its pictures in `docs/gallery/`.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lossbench import cli, records, report, statistics, store
from lossbench.report import drawings, methods, pictures, published

FOLD = 8
"""More sentences than this are folded."""

INTRO = """# What came out

Written by `python -m lossbench.gallery runs`, from the records of the sweeps below `runs` that are
named like an experiment. Nothing here was written by hand: verdicts are those of the declared
protocol ([protocol.md](protocol.md)), and a published finding is judged by the verdict on its own
comparison. **Confirmed** and **not confirmed** speak of the data, model and budget that were run
here, not of the paper's; **not distinguishable** means that the seeds do not settle it, and
**exploratory** that the loss was added after the declaration.
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
    names = sorted(path.stem for path in (cli.conf_dir() / "experiment").glob("*.yaml"))
    there = [name for name in names if (runs / name / "sweep.json").exists()]
    parts = [INTRO, *(_section(runs / name, docs / "gallery") for name in there)]
    store.write(docs / "gallery.md", "\n".join(parts).encode())
    return docs / "gallery.md"


def question(name: str) -> str:
    """What an experiment asks: the header of its file, from `Question:` to its question mark."""
    text = (cli.conf_dir() / "experiment" / f"{name}.yaml").read_text()
    header = " ".join(line[2:] for line in text.splitlines() if line.startswith("# "))
    asked = re.search(r"Question: (.+?\?|.+?\.)", header)
    return asked[1][0].upper() + asked[1][1:] if asked else ""


def _section(folder: Path, shown_in: Path) -> str:
    """Question, command, picture, verdicts and published findings of one sweep."""
    found = records.load(folder)
    groups = report.by_context(report.comparisons(found))
    mains = [report.main_of(group) for group in groups]
    commands = "\n".join(found.plan.get("commands", []))
    lines = [f"## {folder.name}", "", question(folder.name), "", "```bash", commands, "```", ""]
    lines += [" ".join(methods.machine(found.runs)), *_complete(found), ""]
    lines += [f"![{title}](gallery/{file})\n" for file, title in _pictures(found, mains, shown_in)]
    lines += [*_verdicts(mains), *_findings(published.judged_claims(found))]
    objections = report.objections(found, report.comparisons(found))
    lines += [f"- Objection: {one}" for one in objections]
    return "\n".join([*lines, ""])


def _complete(found: records.Records) -> Iterator[str]:
    counts = found.runs.status.value_counts()
    told = ", ".join(f"{count:,} {status}" for status, count in counts.items())
    yield f"{len(found.runs):,} runs: {told}."


def _pictures(
    found: records.Records, mains: list[report.Comparison], shown_in: Path
) -> Iterator[tuple[str, str]]:
    """Draw the verdicts; name and title of each picture that now lies in `shown_in`."""
    losses = {(row.loss, str(row.family)) for row in found.runs.itertuples()}
    with tempfile.TemporaryDirectory() as place:
        drawn = pictures.all_drawn(Path(place), drawings.verdicts(mains), workers=1, losses=losses)
        for picture in drawn:
            name = f"{found.sweep_dir.name}_{picture.name}.png"
            store.write(shown_in / name, (Path(place) / f"{picture.name}.png").read_bytes())
            yield name, picture.title


def _verdicts(mains: list[report.Comparison]) -> Iterator[str]:
    said = [
        f"- {statistics.sentence(row)}" for task in mains for _, row in task.verdicts.iterrows()
    ]
    said += [f"- {task.label}: no verdict. {task.refusal}" for task in mains if task.refusal]
    if len(said) > FOLD:
        said = [
            f"<details><summary>All {len(said)} verdicts</summary>",
            "",
            *said,
            "",
            "</details>",
        ]
    yield from (*said, "")


def _findings(claims: pd.DataFrame) -> Iterator[str]:
    """The table of published findings; nothing where none was declared."""
    if claims.empty:
        return
    yield from ("### Published findings", "")
    yield "| finding | source | here | difference [simultaneous interval] | n | judged |"
    yield "|---|---|---|---|---|---|"
    yield from (_finding(row) for row in claims.to_dict("records"))
    yield ""


def _finding(row: Mapping[str, Any]) -> str:
    if row["judged"] == published.NOT_RUN:
        cells = [row["claim"], row["source"], row["loss"], "", "", f"**{row['judged']}**"]
        return f"| {' | '.join(cells)} |"
    interval = f"{row['metric']} {row['difference']:+.3g} [{row['low']:+.3g}, {row['high']:+.3g}]"
    here = f"{row['loss']} minus {row['reference']} on {row['task']}"
    judged = f"**{row['judged']}** ({row['verdict']})"
    cells = [row["claim"], row["source"], here, interval, str(row["n"]), judged]
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Entry point of `python -m lossbench.gallery`; returns its exit code."""
    places = [Path(word) for word in sys.argv[1:3]]
    runs, docs = (*places, *(Path("runs"), Path("docs"))[len(places) :])
    sys.stdout.write(f"{write(runs, docs)}\n")
    return cli.DONE


if __name__ == "__main__":
    sys.exit(main())
