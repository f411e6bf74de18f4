"""The folder of an export: marked as ours, so that nothing of others is written over."""

from __future__ import annotations

from pathlib import Path

from lossbench import store
from lossbench.export.contents import Export

MARK = "lossbench.json"
"""In a folder that was exported to: of which sweep, for what."""


def marked_folder(export: Export, into: str, tool: str) -> Path:
    """The folder to write to, marked; refused where it has files of others."""
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
