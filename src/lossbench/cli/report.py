"""`lossbench report`, and the results that every training command prints at its end."""

from __future__ import annotations

import functools
import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lossbench import store
from lossbench.cli.exit_codes import DONE, SOME_FAILED
from lossbench.cli.options import parser
from lossbench.errors import ConfigError
from lossbench.report import edition
from lossbench.report.sections import SECTIONS

if TYPE_CHECKING:
    from lossbench.statistics import Verdicts


def main(arguments: list[str]) -> int:
    """Write the report of a sweep; returns the exit code."""
    options = parser("report").parse_intermixed_args(arguments)
    if options.figures and options.json:
        raise ConfigError("report --figures --json: --json writes no files: give one of the two")

    load = loading(options.sweep)
    try:
        if options.json:
            from lossbench.export import plain

            print(json.dumps(plain.verdicts(load()), indent=1, allow_nan=False))
        else:
            _show(options.sweep, load, has_figures=options.figures)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if not options.strict:
        return DONE
    from lossbench.report import objections

    against = objections.of_sweep(load().sweep, load().comparisons)
    if not options.json:  # the JSON has the objections
        for objection in against or ["no objection"]:
            print(f"strict: {objection}")
    return SOME_FAILED if against else DONE


def _show(
    folder: Path, load: Callable[[], Verdicts], *, extent: str = "all", has_figures: bool = False
) -> None:
    """Print the answer, write the report unless it is current, and print the paths of all files.

    The extent of the report is "all" or "verdicts"; `load` loads them, which takes a while.
    """
    sections = ("verdicts",) if extent == "verdicts" else tuple(SECTIONS)
    current = edition.current(folder, sections=sections, has_figures=has_figures)
    path = folder / "report" / "index.html"
    if current is None:
        # Statistics and figures take a second to import, so they are imported only if needed.
        from lossbench.processes import cores, prepare

        if extent == "all" and cores() > 1:
            prepare(["lossbench.report.pictures"])
        from lossbench.report import page, terminal

        def say() -> None:
            _print_answer(terminal.answer(load()))
            files = " and the files of its figures" if has_figures else ""
            print(f"\nWriting the report{files} ...", flush=True)

        start = time.monotonic()
        page.write(
            load(),
            workers=min(8, cores()),
            drawn_in=sections,
            has_figures=has_figures,
            meanwhile=say,
        )
        print(f"Report:  {path}  ({time.monotonic() - start:.0f} s)")
    else:
        _print_answer(current["answer"])
        print(f"\nReport:  {path}  (nothing has changed since it was written)")
    drawn = len([*(path.parent / "figures").glob("*_one_column.pdf")])
    tables = len([*(path.parent / "tables").glob("*.csv")])
    if drawn:
        print(f"Figures: {path.parent / 'figures'}  ({drawn} as PNG, SVG and PDF, at two widths)")
    elif extent == "verdicts":
        print(f"Figures: that of the verdicts, in the page; all: lossbench report {folder}")
    else:
        print(f"Figures: in the page; as PNG, SVG and PDF: lossbench report {folder} --figures")
    print(f"Tables:  {path.parent / 'tables'}  ({tables} as CSV, Markdown and LaTeX)")
    print(f"Paper:   {path.parent / 'paper'}  (a table, methods and references for LaTeX)")
    print(f"Records: {folder}  (in Python: lossbench.records.load)")


def _print_answer(text: str) -> None:
    """Print an answer, without colours if NO_COLOR is set or the output is not a terminal."""
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    if is_plain or not sys.stdout.isatty():
        text = re.sub(r"\033\[[\d;]*m", "", text)
    print(text, end="")


def loading(folder: Path) -> Callable[[], Verdicts]:
    """Function that loads a sweep's verdicts at its first call, and then keeps them."""

    @functools.cache
    def load() -> Verdicts:
        from lossbench import records, statistics

        return statistics.Verdicts(records.load(folder))

    return load


def finish(folder: Path, load: Callable[[], Verdicts], *, extent: str) -> int:
    """Print results and failed runs, and write the report; returns the exit code.

    The extent of the report is "all", "verdicts" or "none".
    """
    if extent != "none":
        _show(folder, load, extent=extent)
    else:
        from lossbench.report import terminal

        _print_answer(terminal.table(load()))
        print(f"\nRecords: {folder}  (in Python: lossbench.records.load)")
        print(f"Next:    lossbench report {folder}  (page, tables)")
    ends = [(store.committed(pack) or {}).get("members", {}) for pack in store.packs_of(folder)]
    if all(run["status"] != "failed" for end in ends for run in end.values()):
        return DONE
    runs = load().sweep.runs
    failed = runs[runs.status == "failed"]
    for run in failed.itertuples():
        reason = str(run.reason).strip().splitlines()[-1]
        print(f"failed: {run.run_id} {run.data} {run.loss} lr={run.lr:g} seed={run.seed}: {reason}")
    return SOME_FAILED if len(failed) else DONE
