"""Tables that do not come with us: where their file may lie, and that it is the one we mean."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

from lossbench.data import files


@dataclass(frozen=True)
class Table:
    """A file that holds a data set.

    Args:
        file: Its name; a csv may also lie there as `<file>.zip`.
        sha256: Of the file's bytes, unzipped.
        cure: How to get it: a command, or what to put where.
        package: Python package that has it in its folder `data`; "" for none. It is not imported.
    """

    file: str
    sha256: str
    cure: str
    package: str = ""


def folders() -> tuple[Path, ...]:
    """Folders that are searched before any package."""
    return (files.root(),)


def path(table: Table) -> Path:
    """The file, in a data folder or an installed package.

    Raises:
        files.Missing: It is nowhere.
    """
    places = [*folders(), *_package_folders(table.package)]
    for place in places:
        for name in (table.file, f"{table.file}.zip"):
            if (place / name).is_file():
                return place / name
    searched = ", ".join(str(place) for place in folders())
    or_package = f" or the package {table.package}" if table.package else ""
    raise files.Missing(f"{table.file} is not found in {searched}{or_package}: {table.cure}")


def content(table: Table, at: Path) -> bytes:
    """The file's bytes, unzipped and verified.

    Args:
        table: What is expected.
        at: Where `path` found it.

    Raises:
        ValueError: It is another file, or no file at all.
    """
    try:
        found = _unzipped(at) if at.suffix == ".zip" else at.read_bytes()
    except (zipfile.BadZipFile, KeyError, IndexError) as error:
        raise ValueError(f"{at} is no zip of a table ({error}): {table.cure}") from None
    digest = hashlib.sha256(found).hexdigest()
    if digest != table.sha256:
        raise ValueError(
            f"{at} has sha256 {digest} where {table.sha256} was expected: remove it, then "
            f"{table.cure}"
        )
    return found


def _unzipped(at: Path) -> bytes:
    with zipfile.ZipFile(io.BytesIO(at.read_bytes())) as archive:
        return archive.read(at.stem)


def _package_folders(package: str) -> list[Path]:
    """The folders `data` of an installed package that need not be importable."""
    spec = importlib.util.find_spec(package) if package else None
    return [Path(place) / "data" for place in (spec and spec.submodule_search_locations) or ()]
