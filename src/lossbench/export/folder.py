"""Folder of an export, marked as lossbench's, so that no other files are overwritten."""

from __future__ import annotations

from pathlib import Path

from lossbench import store
from lossbench.export.contents import Export

MARK = "lossbench.json"
"""File in the folder of an export that names the sweep and the tool."""


def marked_folder(export: Export, into: str, tool: str) -> Path:
    """Folder to write to, with a mark; refused if the folder has files but not the same mark."""
    folder = Path(into) if into else export.sweep.sweep_dir / "export" / tool
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--into {folder} is a file: name a folder, which is made")
    mark = store.to_json({"sweep": export.name, "tool": tool})
    path = folder / MARK
    if (
        folder.is_dir()
        and any(folder.iterdir())
        and not (path.is_file() and store.read_file(path) == mark)
    ):
        raise ValueError(
            f"{folder} is not empty, and not an export of {export.name} to {tool}: "
            "name another folder with --into"
        )
    store.write(path, mark)
    return folder
