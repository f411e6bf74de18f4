"""Every byte that is written: atomic writes, verified reads, one commit record per pack, one lock.

`commit.json` is the only truth about a pack: it names each live file with its sha256. Whatever it
does not name is garbage from an interrupted write and is never read. No torch here.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

COMMIT = "commit.json"


class StoreError(Exception):
    """A file is not what it should be; the message says which, why, and the cure."""


def sha256(content: bytes) -> str:
    """Hex sha256 of `content`."""
    return hashlib.sha256(content).hexdigest()


def to_json(value: Any) -> bytes:
    """Canonical, readable JSON: sorted keys, one trailing newline."""
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


def write(path: Path, content: bytes) -> None:
    """Replace `path` by `content` so that a crash leaves the old file or the new one, never half.

    Args:
        path: File to write; its folder is made when missing.
        content: The whole new content.

    Raises:
        OSError: Disk full, read-only or no permission; the old file is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def read_json(path: Path) -> Any:
    """Parsed content of a JSON file of ours.

    Raises:
        StoreError: The file is missing, unreadable or torn.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{path}: cannot be read as JSON ({error}). Delete it to have its runs trained again."
        ) from error


def commit(pack_dir: Path, files: Mapping[str, bytes], state: Mapping[str, Any]) -> None:
    """Write the files of a pack, then the one record that makes them valid.

    Args:
        pack_dir: The pack's folder.
        files: Content by file name.
        state: Plain JSON facts kept beside the hashes: the schema number, status by run_id.

    Raises:
        OSError: Nothing is committed; the folder holds garbage that is never read.
    """
    if (pack_dir / COMMIT).exists():
        # A pack is only trained again when none of its members was kept, so its record goes first:
        # live files are never replaced under a record that names their old content.
        (pack_dir / COMMIT).unlink()
        _sync_folder(pack_dir)
    for name, content in files.items():
        write(pack_dir / name, content)
    hashes = {name: sha256(content) for name, content in files.items()}
    write(pack_dir / COMMIT, to_json({**state, "files": hashes}))


def committed(pack_dir: Path) -> dict[str, Any] | None:
    """The commit record of a pack, None where it has none yet.

    Raises:
        StoreError: The record is torn or not one of ours.
    """
    if not (pack_dir / COMMIT).exists():
        return None
    state = read_json(pack_dir / COMMIT)
    if not isinstance(state, dict) or not {"files", "members", "schema"} <= state.keys():
        raise StoreError(
            f"{pack_dir / COMMIT}: not a commit record of lossbench. "
            "Delete the pack's folder to have its runs trained again."
        )
    return state


def read(pack_dir: Path, name: str) -> bytes:
    """Content of a committed file, checked against its recorded sha256.

    Raises:
        StoreError: The file is not committed, missing or altered.
    """
    path = pack_dir / name
    expected = (committed(pack_dir) or {"files": {}})["files"].get(name)
    if expected is None:
        raise StoreError(f"{path}: not named in {COMMIT}. {_cure(pack_dir)}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}. {_cure(pack_dir)}") from error
    if sha256(content) != expected:
        raise StoreError(f"{path}: content differs from its recorded sha256. {_cure(pack_dir)}")
    return content


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold `path` for this process alone; the kernel frees it when the process dies.

    Raises:
        StoreError: Another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise StoreError(
                f"{path.parent} is in use by process {holder}. Wait for it, or give this sweep "
                "its own folder with name=..."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _cure(pack_dir: Path) -> str:
    return f"Delete {pack_dir} and run the sweep again: only its runs are trained."


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
