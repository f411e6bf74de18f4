"""Progress of a task: a bar on a terminal or in a notebook, log lines everywhere else."""

from __future__ import annotations

import io
import logging
import sys
import warnings

from tqdm import std

with warnings.catch_warnings():
    warnings.simplefilter("ignore", std.TqdmWarning)  # in a notebook without ipywidgets
    from tqdm.auto import tqdm

log = logging.getLogger(__name__)

PAUSE = 20.0
"""Least number of seconds between two log lines."""


def progress(total: int, *, unit: str, title: str, initial: int = 0) -> std.tqdm:
    """Progress bar or logger of lines; its `update` takes the number of units that have ended.

    The name of a unit is in the singular; without a title nothing is shown. The number `initial` of
    units have ended before the start.
    """
    fields = {"total": total, "unit": unit, "desc": title, "initial": initial}
    fields |= {"leave": False, "disable": not title}
    if IS_NOTEBOOK or sys.stderr.isatty():
        return tqdm(**fields)
    return _Lines(**fields, mininterval=PAUSE, miniters=0, file=io.StringIO(), bar_format=LINE)


IS_NOTEBOOK = any(kind.__module__ == "tqdm.notebook" for kind in tqdm.__mro__)
"""Whether tqdm draws its bars with a notebook's widgets."""

LINE = "{desc}: {n_fmt} of {total_fmt} {unit}s, {elapsed} gone, {remaining} left"


class _Lines(std.tqdm):
    """Progress bar that logs one line each time a terminal would redraw the bar."""

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        has_begun = self.n > self.initial or self.format_dict["elapsed"] >= self.mininterval
        if msg is None and has_begun:
            log.info("%s", self)
        return True
