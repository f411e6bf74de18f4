"""Edition of a report: records, code and versions it was made from. Equal reports are not remade.

`lossbench report` reads the edition first, so this module imports nothing that takes time.
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
    """Edition of a sweep's report, if a new report would have the same content.

    Args:
        sweep_dir: Folder of the sweep.
        sections: Sections whose pictures are wanted; the report may have more.
        has_figures: Whether files of the figures are wanted; the report may have unwanted files.

    Returns:
        Edition that `write` stored; None if records, code or a version changed since, a wanted part
        is missing, or a file of the report is gone or was edited.
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
    """Files of the existing report, relative to the folder; empty if there is no report."""
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
    """Record what a report was made from, after all files of the report were written.

    Args:
        folder: Folder of the report.
        files: All files of the report, relative to the folder.
        sweep_sha: Hash of the records, computed before the records were read.
        sections: Sections with pictures.
        has_figures: Whether there are files of the figures.
        answer: Answer for the terminal.
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
