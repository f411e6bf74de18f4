"""Which records, code and versions a report was made of: one that would come out the same stays.

It is read before anything else, so nothing is imported here that takes time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from lossbench import store

FILE = "edition.json"


def current(
    sweep_dir: Path, *, sections: Collection[str], has_figures: bool
) -> dict[str, Any] | None:
    """The edition of a sweep's report, if what was asked for would come out the same.

    Args:
        sweep_dir: Folder of the sweep.
        sections: That have pictures; the report may have more.
        has_figures: Whether there are files of the figures beside the page; likewise.

    Returns:
        What `write` was given; None if records, code or a version changed since, or a file of the
        report is gone or was edited.
    """
    folder = sweep_dir / "report"
    try:
        edition = store.read_sealed(store.refuse_link(folder) / FILE)
        is_current = (
            edition["made_of"] == [store.sweep_sha(sweep_dir), store.code_sha()]
            and {*sections} <= {*edition["sections"]}
            and has_figures <= edition["has_figures"]
            and edition["files"] == _shas(folder, edition["files"])
        )
    except (OSError, KeyError, store.StoreError):
        return None
    return edition if is_current else None


def files(folder: Path) -> set[str]:
    """What belongs to the report that is there, relative to its folder."""
    try:
        return {*store.read_sealed(store.refuse_link(folder) / FILE)["files"]}
    except (OSError, KeyError, store.StoreError):
        return set()


def write(
    folder: Path,
    files: Iterable[str],
    *,
    sweep_sha: str,
    sections: Collection[str],
    has_figures: bool,
    answer: str,
) -> None:
    """Say what a report was made of, once all of it is written.

    Args:
        folder: Of the report.
        files: All that belongs to it, relative to the folder.
        sweep_sha: Of the records, from before they were read.
        sections: That have pictures.
        has_figures: Whether there are files of the figures.
        answer: What the terminal says.
    """
    edition = {
        "made_of": [sweep_sha, store.code_sha()],
        "sections": [*sections],
        "has_figures": has_figures,
        "answer": answer,
        "files": _shas(folder, files),
    }
    store.write(folder / FILE, store.sealed(edition))


def _shas(folder: Path, files: Iterable[str]) -> dict[str, str]:
    return {name: store.sha256(store.read_file(folder / name)) for name in files}
