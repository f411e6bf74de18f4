"""Access to the files of sweeps: atomic writes, verified reads, sealed records, locks.

`commit.json` of a pack decides which files of the pack are valid: the record names each valid file
with its sha256, and has a sha256 of itself. Other files are left from an interrupted write: they
are never read, and are deleted when the pack trains again. This module does not import torch.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import math
import os
import platform
import re
import socket
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import lossbench

COMMIT, LOCK = "commit.json", "lock"
TRIES = 3
"""Attempts at a lock, 10 ms apart, before the lock counts as held by another process."""
_PLAIN_NAME = re.compile(r"[\w-][\w.-]*")
_HOLDER = re.compile(rb"\s*(\d{1,20})(?: ([\w.-]{1,255}))?\s*")
"""Content of a lock file: the number of the process that holds the lock, and its machine."""
Record = dict[str, Any]
"""Content of a JSON file: a commit record, a plan, or other facts by key."""

SEAL = "sha256"
"""Key under which a sealed record carries the hash of all its other keys."""


class StoreError(Exception):
    """File that is damaged, missing or not lossbench's; the message has path, reason and cure."""


class WriteError(StoreError):
    """File that cannot be written, like on a full disk; earlier commits are untouched."""


def sha256(content: bytes) -> str:
    """Hex sha256 of `content`."""
    return hashlib.sha256(content).hexdigest()


def to_json(value: object) -> bytes:
    """Canonical, readable JSON: sorted keys, one trailing newline."""
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


def plain(value: Any) -> Any:
    """Convert a value to JSON types: NaN and infinity become None, numpy values Python values."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def sealed(record: Mapping[str, object]) -> bytes:
    """JSON of a record and of the record's own sha256, so that a changed bit is noticed."""
    return to_json({**record, SEAL: sha256(to_json(record))})


def read_sealed(
    path: Path, *, cure: str = "Restore it, or delete its folder to have its runs trained again."
) -> Record:
    """Read a record that `sealed` made, verify its sha256, and return the record without it.

    Raises:
        StoreError: The record is missing, torn, altered, or was never sealed.
    """
    try:
        content = read_file(path)
        record = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error)[:200]
        raise StoreError(f"{path}: cannot be read as JSON ({reason}). {cure}") from error
    if not isinstance(record, dict) or SEAL not in record:
        raise StoreError(f"{path}: not a record of this version of lossbench. {cure}")
    seal = record.pop(SEAL)
    # The sha256 is of the text without the line of the seal, and without the comma before that line
    # if it is the last one. To serialise the record again would take ten times as long.
    line = f' "{SEAL}": {json.dumps(seal)}'
    text = content.replace(f"{line},\n".encode(), b"", 1).replace(f",\n{line}\n".encode(), b"\n", 1)
    if sha256(text) != seal and sha256(to_json(record)) != seal:
        raise StoreError(f"{path}: altered, its content differs from its own sha256. {cure}")
    return record


def read_file(path: Path) -> bytes:
    """Content of a regular file; does not wait for a pipe, and does not follow a link.

    Raises:
        OSError: The file is missing, a link, a folder, a pipe or a device.
    """
    descriptor = _opened(path, os.O_RDONLY)
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def _opened(path: Path, flags: int) -> int:
    """Open a regular file and return its descriptor; makes the file if the flags have O_CREAT."""
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise OSError(error.errno, NO_FILE, str(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, NO_FILE, str(path))
    return descriptor


NO_FILE = "a link, folder, pipe or device stands where a file should be: delete it"


def refuse_link(folder: Path) -> Path:
    """Return the folder; refuse a link, which would redirect reads and writes elsewhere."""
    if folder.is_symlink():
        raise StoreError(
            f"{folder} is a link, but a folder of the sweep should be there: delete the link"
        )
    return folder


# ---- writing -------------------------------------------------------------------------------------


def write(path: Path, content: bytes) -> None:
    """Write a file atomically: a crash leaves the whole old file or the whole new file.

    The folder of the file is made if missing.

    Raises:
        WriteError: Disk full, read-only or no permission; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name[:100]}.{os.getpid()}.tmp")
    with _explained(path):
        os.makedirs(path.parent, exist_ok=True)  # noqa: PTH103  tests count calls of `os`
        try:
            _write_whole(temporary, content)
            os.replace(temporary, path)  # noqa: PTH105
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108
            raise
        _sync_folder(path.parent)


def _write_whole(path: Path, content: bytes) -> None:
    descriptor = _opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError(
            f"{path} cannot be written ({error.strerror or error}): what was committed before is "
            "kept, so correct that and give the same command again"
        ) from error


# ---- packs ---------------------------------------------------------------------------------------


def sweep_sha(sweep_dir: Path) -> str:
    """Hex sha256 of a sweep's plan and commit records, which contain hashes of all other files.

    Raises:
        OSError: There is no plan, or a record cannot be read.
    """
    shas = {sweep_dir / "sweep.json": sha256(read_file(sweep_dir / "sweep.json"))}
    for path in sorted(sweep_dir.glob(f"packs/*/{COMMIT}")):
        with contextlib.suppress(FileNotFoundError):  # raised if the pack is divided at this moment
            shas[path] = sha256(read_file(path))
    lines = [f"{path.relative_to(sweep_dir)} {sha}" for path, sha in shas.items()]
    return sha256("\n".join([sweep_dir.name, *lines]).encode())


PACKAGES = ("matplotlib", "seaborn", "numpy", "pandas", "pyarrow", "duckdb", "scipy", "jinja2")
"""Packages on whose versions verdicts, figures and reports depend."""


@functools.cache
def code_sha() -> str:
    """Hex sha256 of lossbench's source and of the versions of `PACKAGES` and Python."""
    house = Path(lossbench.__file__).parent
    paths = sorted(path for kind in ("*.py", "*.j2") for path in house.rglob(kind))
    lines = [f"{path.relative_to(house)} {sha256(path.read_bytes())}" for path in paths]
    versions = [f"{name} {metadata.version(name)}" for name in PACKAGES]
    return sha256("\n".join([*lines, *versions, platform.python_version()]).encode())


def packs_of(sweep_dir: Path) -> list[Path]:
    """Folders of the packs of a sweep, sorted by name; refuses a link."""
    return sorted(refuse_link(sweep_dir / "packs").glob("*"))


def commit(
    pack_dir: Path,
    files: Mapping[str, bytes],
    state: Mapping[str, object],
    *,
    keep: Iterable[str] = (),
) -> None:
    """Write new files of a pack, then the commit record that makes these files valid.

    Args:
        pack_dir: The pack's folder.
        files: Content by file name; the names must not be in the old record.
        state: Other JSON values of the record: the schema number, members by run_id.
        keep: Names of committed files that stay valid; all other files are deleted.

    Raises:
        WriteError: A file cannot be written, and the old record stays valid; or the new record is
            valid, and an old file cannot be deleted.
    """
    old = (committed(pack_dir) or {"files": {}})["files"]
    assert not {*files} & {*old}, "a live file is never replaced under a record that names it"
    for name, content in files.items():
        write(pack_dir / name, content)
    hashes = {name: old[name] for name in keep}
    hashes |= {name: sha256(content) for name, content in files.items()}
    write(pack_dir / COMMIT, sealed({**state, "files": hashes}))
    clean(pack_dir)


def committed(pack_dir: Path) -> Record | None:
    """Commit record of a pack; None if the pack does not have a record yet.

    Raises:
        StoreError: The record is damaged, not lossbench's, or missing although there are tables.
    """
    try:
        state = read_sealed(refuse_link(pack_dir) / COMMIT)
    except StoreError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        if tables := ", ".join(sorted(path.name for path in pack_dir.glob("*.parquet"))):
            raise StoreError(
                f"{pack_dir / COMMIT} is missing, and {tables} are there: restore it, or delete "
                f"{pack_dir} to have its runs trained again"
            ) from None
        return None
    is_ours = {"files", "members", "schema", "is_finished"} <= state.keys()
    if not is_ours or not all(map(_PLAIN_NAME.fullmatch, state["files"])):
        raise StoreError(
            f"{pack_dir / COMMIT}: not a commit record of lossbench. {_cure(pack_dir)}"
        )
    return state


def read(pack_dir: Path, name: str, record: Record | None = None) -> bytes:
    """Content of a committed file, checked against its sha256 in the record, or in `commit.json`.

    Raises:
        StoreError: The file is not committed, missing or altered.
    """
    path = pack_dir / name
    record = committed(pack_dir) if record is None else record
    expected = record["files"].get(name) if record else None
    if expected is None:
        raise StoreError(f"{path}: not named in {COMMIT}. {_cure(pack_dir)}")
    return read_hashed(path, expected, cure=_cure(pack_dir))


def read_hashed(path: Path, expected: str, *, cure: str) -> bytes:
    """Content of a file; refuses a file that is missing, or altered by its known sha256."""
    try:
        content = read_file(path)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}. {cure}") from error
    except MemoryError as error:
        raise StoreError(f"{path}: larger than memory. {cure}") from error
    if sha256(content) != expected:
        raise StoreError(f"{path}: content differs from its recorded sha256. {cure}")
    return content


def clean(pack_dir: Path) -> None:
    """Delete the files of a pack that its commit record does not name, except the lock."""
    live = {COMMIT, LOCK, *(committed(pack_dir) or {"files": {}})["files"]}
    for path in sorted(pack_dir.iterdir()):
        if path.name not in live:
            delete(path)


def clean_temporaries(folder: Path) -> None:
    """Delete temporary files that interrupted writes left; the caller holds the folder's lock."""
    for path in sorted(folder.glob(".*.tmp")):
        delete(path)


def dissolve(pack_dir: Path) -> None:
    """Delete an unfinished pack: first its commit record, which makes all other files invalid."""
    delete(pack_dir / COMMIT)
    for path in sorted(pack_dir.iterdir()):
        delete(path)
    with contextlib.suppress(OSError):
        os.rmdir(pack_dir)  # noqa: PTH106


def delete(path: Path) -> None:
    """Delete a file, if it is there."""
    with _explained(path), contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108


def _cure(pack_dir: Path) -> str:
    return f"Delete {pack_dir} and run the sweep again: only its runs are trained."


# ---- locks ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def lock(path: Path, *, patience: float = 0.0) -> Iterator[None]:
    """Lock a file for this process alone; the kernel frees the lock when the process dies.

    The file is made if missing.

    Raises:
        StoreError: Another process still holds the lock after `patience` seconds.
    """
    until = time.monotonic() + patience
    while True:
        with try_lock(path) as is_mine:
            if is_mine:
                yield
                return
        if time.monotonic() >= until:
            raise StoreError(
                f"{path.parent} is in use by process {holder(path)}. Wait for it, or give this "
                "sweep its own folder with name=..."
            )
        time.sleep(0.05)


@contextlib.contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Lock a file unless another process holds it; yields whether this process has the lock."""
    with _explained(path):
        os.makedirs(path.parent, exist_ok=True)  # noqa: PTH103
        descriptor = _opened(path, os.O_RDWR | os.O_CREAT)
    try:
        is_mine = _flock_patiently(descriptor, path) and _is_still(descriptor, path)
        if is_mine:
            with _explained(path):
                # A lock is empty or names a process, and has no second hard link.
                is_process = _HOLDER.fullmatch(os.pread(descriptor, 300, 0)) is not None
                is_single = os.fstat(descriptor).st_nlink < 2
                if not is_single or not (is_process or not os.fstat(descriptor).st_size):
                    raise OSError(errno.EEXIST, "it is not a lock of lossbench: move it away")
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()} {socket.gethostname()}".encode())
        yield is_mine
    finally:
        os.close(descriptor)


def _is_still(descriptor: int, path: Path) -> bool:
    """Whether `path` still names the locked file, and not a new file of the same name."""
    try:
        there = os.stat(path)  # noqa: PTH116
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)


def _flock_patiently(descriptor: int, path: Path) -> bool:
    """Lock a file in several attempts, because `is_held` of another process locks it briefly."""
    for _ in range(TRIES):
        if _flock(descriptor, path):
            return True
        time.sleep(0.01)
    return False


def _flock(descriptor: int, path: Path, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise StoreError(
                f"{path}: this file system does not support locks ({error.strerror}). "
                f"Keep the sweep on one that does: name a folder there with hydra.sweep.dir=..."
            ) from error
        raise
    return True


def holder(path: Path) -> str:
    """Process number in a lock file, with the machine's name if it is not this machine."""
    with contextlib.suppress(OSError):
        if match := _HOLDER.fullmatch(read_file(path)):
            number, machine = match[1].decode(), (match[2] or b"").decode()
            return f"{number} on {machine}" if machine not in ("", socket.gethostname()) else number
    return "unknown"


def is_held(path: Path) -> bool:
    """Whether any process holds the lock now; does not change the file."""
    try:
        descriptor = _opened(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    try:
        return not _flock(descriptor, path, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)
