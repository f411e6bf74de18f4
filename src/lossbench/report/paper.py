"""Files for a paper: a LaTeX table for each metric and reference, methods, references."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import lossbench
from lossbench import records, statistics, store
from lossbench.report import methods, summary, words
from lossbench.report.table_files import escaped, tabular
from lossbench.statistics import Comparison

REFERENCES = """\
@misc{lossbench,
  title = {lossbench: identical models, different losses},
  author = {{The lossbench developers}},
  note = {Version %s},
  year = {2026},
}
@inproceedings{pytorch,
  title = {{PyTorch}: An Imperative Style, High-Performance Deep Learning Library},
  author = {Paszke, Adam and others},
  booktitle = {Advances in Neural Information Processing Systems 32},
  year = {2019},
}
"""


def write(folder: Path, loaded: records.Records, mains: Sequence[Comparison]) -> list[str]:
    """Write the files for a paper into a folder; returns the names of the files."""
    prose = " ".join(methods.paragraph(loaded, mains))
    cited = _typeset(prose)
    for name, key in {"lossbench": "lossbench", "PyTorch": "pytorch"}.items():
        cited = cited.replace(name, rf"{name}~\cite{{{key}}}", 1)
    files = {
        "methods.md": f"{prose}\n",
        "methods.tex": f"{cited}\n",
        "references.bib": REFERENCES % lossbench.__version__,
    }
    for alike in statistics.grouped(mains, "metric", "reference"):
        files[f"{alike[0].metric}_against_{alike[0].reference}.tex"] = table(alike, loaded)
    for old in folder.glob("*_against_*.tex"):
        if old.name not in files:
            old.unlink()
    for name, text in files.items():
        store.write(folder / name, text.encode())
    return [*files]


def table(comparisons: Sequence[Comparison], loaded: records.Records) -> str:
    """Floating table of contexts with the same metric and reference, for the package booktabs."""
    first = comparisons[0]
    titles = [one.title for one in comparisons]
    if len({*titles}) < len(comparisons):  # two contexts share a title
        titles = [one.label for one in comparisons]
    value, difference = f"{first.split} {first.metric}", f"minus {first.reference}"
    heads = ["context", "loss", value, difference, "verdict"]
    rows = [
        [title if at == 0 else "", row["loss"], row["short"], row["difference"], row["verdict"]]
        for title, one in zip(titles, comparisons, strict=True)
        for at, row in enumerate(summary.rows(one, loaded.plan))
    ]
    margins = words.margin_text([one.margin for one in comparisons])
    confidence = statistics.declaration_of(loaded.plan)["confidence"]
    medians = words.listed([one.title for one in comparisons if one.rule.average == "median"])
    caption = (
        f"{summary.headline(first)}. Mean over seeds and half its interval; paired differences "
        f"from {first.reference}{f' (their median on: {medians})' if medians else ''}, over the "
        f"seeds of the look at which each was settled, with {confidence:.0%} intervals, "
        "simultaneous over the losses of a context and the looks. Differences below the margin, "
        f"{margins}, are of no practical weight; better or worse by more: by more than the margin."
    )
    if any("†" in loss for _, loss, *_ in rows):
        caption += f" †: {summary.OTHER_FUNCTIONAL}."
    caption = _typeset(caption[0].upper() + caption[1:])
    label = f"tab:{first.metric}-against-{first.reference}".replace("_", "-")
    cells = tabular([[_typeset(cell) for cell in row] for row in [heads, *rows]])
    return (
        f"\\begin{{table}}[tb]\n\\centering\n\\caption{{{caption}}}\n\\label{{{label}}}\n"
        f"{cells}\\end{{table}}\n"
    )


_TYPESET = str.maketrans(
    {"±": r"$\pm$", "×": r"$\times$", "·": r"$\cdot$", "†": r"\dag{}", "–": "--"}
)


def _typeset(text: str) -> str:
    """Text escaped for LaTeX, with minus signs and powers of ten typeset as in a paper."""
    letters = escaped(text).translate(_TYPESET)
    letters = re.sub(r"(?<![\w.$-])-(?=\d)", "$-$", letters)
    return re.sub(r"\b(\d\.?\d*)e\+?(-?)0*(\d+)", r"$\1\\times10^{\2\3}$", letters)
