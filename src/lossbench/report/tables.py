"""Tables as files: CSV with full precision, Markdown, and LaTeX for a paper."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lossbench import store

KINDS = ("csv", "md", "tex")


def write_tables(folder: Path, numbers: Mapping[str, pd.DataFrame]) -> None:
    """Write each table as .csv, .md and .tex.

    Args:
        folder: Where to.
        numbers: Tables by file stem.
    """
    for name, frame in numbers.items():
        safe = frame.map(lambda v: f"'{v}" if isinstance(v, str) and _is_obeyed(v) else v)
        store.write(folder / f"{name}.csv", safe.to_csv(index=False).encode())
        head = [str(column) for column in frame.columns]
        body = [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
        store.write(folder / f"{name}.md", _markdown(head, body).encode())
        store.write(folder / f"{name}.tex", _latex(head, body).encode())


def _is_obeyed(text: str) -> bool:
    """Whether a spreadsheet would take it for a formula; a signed number is none."""
    return text[:1] in tuple("=@") or (text[:1] in tuple("+-") and not text[1:2].isdigit())


def stacked(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Frames below each other; those without rows are left out."""
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()


def _cell(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _markdown(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *body]
    clean = [[re.sub(r"([|<>\\`*_\[\]])", r"\\\1", cell) for cell in row] for row in rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in clean)


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {letter: f"\\{letter}" for letter in "&%$#_{}"} | {"†": r"\dag{}", "×": r"$\times$"}


def _latex(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = [
        " & ".join("".join(_LATEX.get(letter, letter) for letter in cell) for cell in row) + r" \\"
        for row in (head, *body)
    ]
    start = rf"\begin{{tabular}}{{{'l' * len(head)}}}"
    rows = [start, r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule", r"\end{tabular}"]
    return "\n".join(rows) + "\n"
