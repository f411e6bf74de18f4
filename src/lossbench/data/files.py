"""Files of data sets: paths, downloads and verified contents. Nothing is unpickled."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

BROKEN = (OSError, EOFError, KeyError, zlib.error, tarfile.TarError, zipfile.BadZipFile)
"""Errors of reading a damaged file."""

ROOT = "data"
"""Default folder of data sets, relative to the current folder."""


class Missing(ValueError):
    """Error for a missing file of a data set; the message says how to get the file."""


@dataclass(frozen=True)
class File:
    """A file of a data set, as published by the authors.

    Attributes:
        name: Name of the file in messages.
        digest: Hash of the unpacked content, as "sha256:HEX" or "sha1:HEX".
        places: Possible paths, below the data root or absolute; the first path that exists is read.
            A `.gz` or `.zip` is unpacked, a `.tgz` is not; from a `.tar.gz` one member is read.
        cure: Advice on how to get the file.
        urls: Addresses, tried in order, from which the first of `places` that ends in `.gz` or
            `.tgz` is downloaded; empty if the file cannot be downloaded.
        md5: Hash of the download, hex; empty if `digest` is the hash of the download too.
        member: Name of the file within a `.tar.gz`.
        package: Python package whose folder `data` may have the file, searched after the data root;
            the package is not imported.
    """

    name: str
    digest: str
    places: tuple[str, ...]
    cure: str
    urls: tuple[str, ...] = ()
    md5: str = ""
    member: str = ""
    package: str = ""


@dataclass(frozen=True)
class Program:
    """A program that prints a text, as packaged by a Linux distribution.

    Attributes:
        name: Name of the program.
        arguments: Arguments of the program; `{lib}` is replaced by the folder of the program's
            data.
        digest: Hash of the printed text, hex sha256.
        cure: Advice on how to get the program.
    """

    name: str
    arguments: tuple[str, ...]
    digest: str
    cure: str


@dataclass(frozen=True)
class Files:
    """Reader of data files, passed to data functions with a keyword `files` without default.

    Attributes:
        root: Folder of data sets; a relative path starts at the current folder.
        download: Whether missing files may be downloaded into the root.
    """

    root: Path = Path(ROOT)
    download: bool = False

    def path(self, name: str) -> Path:
        """Path of a user's file or folder below the data root; raises `Missing` if it is absent."""
        path = self.root / name
        if not path.exists():
            raise Missing(f"{name} is not below data.root={self.root}: put it there, or set it")
        return path

    def read(self, file: File) -> bytes:
        """Read the unpacked content of a file and verify its hash.

        Raises:
            Missing: The file is not found, and may not be downloaded; the message gives the cure.
            ValueError: The file is damaged or has another hash, or the download failed.
        """
        # The folders `data` of an installed package, which is not imported.
        spec = importlib.util.find_spec(file.package) if file.package else None
        installed = (spec and spec.submodule_search_locations) or ()
        folders = [self.root, *(Path(folder) / "data" for folder in installed)]
        places = [folder / place for folder in folders for place in file.places]
        path = next((place for place in places if place.is_file()), None)
        if path is None and self.download and file.urls:
            path = self._download(file)
        if path is None:
            where = f"below data.root={self.root}"
            if file.package:
                where += f", nor in an installed package {file.package}"
            raise Missing(f"{file.name} is not {where}: {file.cure}")
        try:
            if path.name.endswith(".tar.gz"):
                with tarfile.open(path, "r:gz") as archive:
                    inside = archive.extractfile(file.member)
                    if inside is None:
                        raise KeyError(f"{file.member} is not a file")
                    content = inside.read()
            elif path.suffix == ".zip":
                with zipfile.ZipFile(path) as archive:
                    content = archive.read(path.stem)
            else:
                content = path.read_bytes()
                content = gzip.decompress(content) if path.suffix == ".gz" else content
        except BROKEN as error:
            raise ValueError(f"{path} cannot be read ({error}): replace it, {file.cure}") from error
        kind, _, digest = file.digest.partition(":")
        actual = hashlib.new(kind, content).hexdigest()
        if actual != digest:
            raise ValueError(
                f"{path} is not {file.name} as it was published, {kind} {actual[:12]}... instead "
                f"of {digest[:12]}...: replace it, {file.cure}"
            )
        return content

    def printed(self, program: Program) -> bytes:
        """Run an installed program and verify the printed text.

        Raises:
            Missing: The program is not installed; the message gives the cure.
            ValueError: The program failed, or printed another text.
        """
        place = shutil.which(program.name)
        if place is None:
            raise Missing(f"there is no program {program.name}: {program.cure}")
        lib = str(Path(place).parent.parent / "lib")
        command = [place, *(argument.format(lib=lib) for argument in program.arguments)]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
        )
        actual = hashlib.sha256(done.stdout).hexdigest()
        if actual != program.digest:
            raise ValueError(
                f"{place} printed {len(done.stdout):,} bytes with sha256 {actual[:12]}... instead "
                f"of {program.digest[:12]}...: {program.cure}"
            )
        return done.stdout

    def _download(self, file: File) -> Path:
        """Download a file and return its path; a failed download leaves no partial file."""
        import pooch  # here, because the import takes 0.1 s, and only downloads need pooch

        place = next(place for place in file.places if place.endswith((".gz", ".tgz")))
        path, failures = self.root / place, []
        known_hash = f"md5:{file.md5}" if file.md5 else file.digest
        for url in file.urls:
            try:
                pooch.retrieve(
                    url, known_hash, path.name, path.parent, progressbar=sys.stderr.isatty()
                )
                return path
            except (OSError, ValueError) as error:
                failures.append(f"{url}: {error}")
        raise ValueError(
            f"{file.name} cannot be downloaded ({'; '.join(failures)}): put it to {path} yourself"
        )
