"""Tables as files: CSV with full precision, Markdown, and LaTeX for a paper."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from lossbench import store

KINDS = ("csv", "md", "tex")


def write_tables(folder: Path, tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Write each table, by file stem, as .csv, .md and .tex; returns the names of the files."""
    for name, frame in tables.items():
        texts = frame.map(lambda cell: f"{cell:.5g}" if isinstance(cell, float) else str(cell))
        texts = texts.rename(columns=str)
        store.write(folder / f"{name}.csv", frame.map(_defused).to_csv(index=False).encode())
        store.write(folder / f"{name}.md", markdown(texts).encode())
        store.write(folder / f"{name}.tex", latex(texts).encode())
    return [f"{name}.{kind}" for name in tables for kind in KINDS]


def stacked(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Frames below each other; frames without rows are left out."""
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()


def _defused(value: object) -> object:
    """Cell that no spreadsheet takes for a formula; a signed number stays unchanged."""
    is_formula = isinstance(value, str) and re.match(r"[=@]|[+-](?!\d)", value)
    return f"'{value}" if is_formula else value


def markdown(texts: pd.DataFrame) -> str:
    """Table of texts in Markdown; special characters of Markdown are escaped."""
    rows = [[*texts.columns], ["---"] * len(texts.columns), *texts.to_numpy().tolist()]
    clean = [[re.sub(r"([|<>\\`*_\[\]])", r"\\\1", cell) for cell in row] for row in rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in clean)


def latex(texts: pd.DataFrame) -> str:
    """Table of texts in LaTeX, for the package booktabs; special characters are escaped."""
    cells = [[*texts.columns], *texts.to_numpy().tolist()]
    return tabular([[escaped(cell) for cell in row] for row in cells])


def tabular(cells: Sequence[Sequence[str]]) -> str:
    """Rows of LaTeX, the first of them the head, as a table for the package booktabs."""
    head, *rows = [f"{' & '.join(row)} \\\\\n" for row in cells]
    return (
        f"\\begin{{tabular}}{{{'l' * len(cells[0])}}}\n\\toprule\n{head}\\midrule\n"
        f"{''.join(rows)}\\bottomrule\n\\end{{tabular}}\n"
    )


_SIGNS = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%$#_{}"}
    | {"\\": r"\textbackslash ", "~": r"\textasciitilde ", "^": r"\textasciicircum "}
)


def escaped(text: str) -> str:
    """Text escaped for LaTeX; a space after a command becomes a command, or LaTeX would drop it."""
    return re.sub(r"(\\text\w+ ) ", r"\1\\space ", text.translate(_SIGNS))
