"""Hashes of the code of functions and of the code that the functions use."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lossbench.fingerprints import notebook
from lossbench.fingerprints.tensors import tensors_sha


def source_sha(functions: Iterable[Callable[..., Any]], *, facts: str = "") -> str:
    """Hex sha256 over the code of functions and of the code used from the functions' own package.

    Comments, docstrings and layout do not count; an edited formula or constant does. For a user's
    function the whole file counts, with every file of the user that the file imports, because names
    alone do not show the code that is reached through objects and modules. For a function of a
    script or a notebook see `notebook`.

    Args:
        functions: Functions to hash.
        facts: Further text to hash, which is not in the code.
    """
    codes: dict[str, str] = {}
    for function in functions:
        module = str(inspect.unwrap(function).__module__)
        if _file_codes(module) is None:
            codes[f"{module}.{function.__qualname__}"] = notebook.content(function, _file_codes)
            continue
        _collect(function, codes)
        if module.partition(".")[0] != "lossbench":
            codes |= _files(module)
    parts = [codes[name] for name in sorted(codes, key=_former_name)]
    if facts:
        parts.append(facts)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


FORMER = {
    "lossbench.fingerprints.streams.": "lossbench.pairing.",
    "lossbench.fingerprints.tensors.": "lossbench.pairing.",
    "lossbench.data.tables.": "lossbench.own.tables.",
    "lossbench.data.columns.": "lossbench.own.columns.",
}
"""Former names of moved modules: code is hashed in the order of former names, so that runs recorded
before a move keep their identity."""


def _former_name(name: str) -> str:
    """Dotted name of a function before its module was moved."""
    module = next((module for module in FORMER if name.startswith(module)), "")
    return FORMER.get(module, "") + name.removeprefix(module)


def _collect(function: Callable[..., Any], codes: dict[str, str]) -> None:
    """Add to `codes` the code of a function or class, and of all names in it from its package."""
    function = inspect.unwrap(function)
    name = f"{function.__module__}.{function.__qualname__}"
    if name in codes:
        return
    codes[name] = _code(function)
    known = getattr(function, "__globals__", None) or vars(sys.modules[function.__module__])
    cells = getattr(function, "__closure__", None) or ()
    if cells and not name.startswith("lossbench."):
        inner = dict(zip(function.__code__.co_freevars, cells, strict=True))
        for used, cell in sorted(inner.items()):
            value = cell.cell_contents
            _collect_value(f"{name}.{used}", value, function.__module__, codes)
    for used in sorted(_names(function) & known.keys()):
        _collect_value(f"{function.__module__}.{used}", known[used], function.__module__, codes)


def _collect_value(name: str, value: Any, module: str, codes: dict[str, str]) -> None:
    package = module.partition(".")[0]
    is_array = isinstance(value, Tensor) or type(value).__module__ == "numpy"
    if is_array and package != "lossbench":  # arrays in lossbench are made by hashed code
        codes[name] = tensors_sha({"value": torch.as_tensor(value)})
    elif callable(value) and hasattr(value, "__module__") and hasattr(value, "__qualname__"):
        other = str(value.__module__)
        if other.partition(".")[0] == package or _are_neighbours(other, module):
            _collect(value, codes)
    elif inspect.ismodule(value):
        if value.__name__.partition(".")[0] == package:
            codes[name] = ast.unparse(_bare(ast.parse(inspect.getsource(value))))
    elif isinstance(value, Mapping | list | tuple | set | frozenset):
        parts = dict(value) if isinstance(value, Mapping) else dict(enumerate(value))
        codes[name] = repr([*map(str, parts)])
        for key, part in parts.items():
            _collect_value(f"{name}[{key!r}]", part, module, codes)
    elif isinstance(value, str | int | float | complex | None):
        codes[name] = repr(value)


def _are_neighbours(module: str, other: str) -> bool:
    """Whether two modules are files in the same folder of the user."""
    if other.startswith("lossbench."):
        return False
    paths = [getattr(sys.modules.get(name), "__file__", None) for name in (module, other)]
    folders = {str(Path(path).resolve().parent) for path in paths if path}
    return None not in paths and len(folders) == 1


def _file_codes(module: str) -> str | None:
    """Code of a module's files; empty if the module is installed, None if it has no file."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names and top != "__main__":
        return ""
    path = getattr(sys.modules.get(module), "__file__", None)
    if top == "__main__" or path is None:
        return None
    if top == "lossbench" or _is_installed(Path(path)):
        return ""
    return repr(sorted(_files(module).items()))


def _is_installed(path: Path) -> bool:
    return not {"site-packages", "dist-packages"}.isdisjoint(path.parts)


def forget() -> None:
    """Clear the caches of code, which may have been edited in a notebook since the last command."""
    for cached in (_files, _code, _names):
        cached.cache_clear()


@functools.cache
def _files(module: str) -> dict[str, str]:
    """Code of a module's file and of all files it imports from the same folder tree, by name."""
    path = getattr(sys.modules.get(module), "__file__", None)
    if path is None:  # a notebook
        return {}
    file = Path(path).resolve()
    root = file.parents[module.count(".") + (file.name == "__init__.py")]
    # Of an installed module only files of the module's own package count.
    is_installed = _is_installed(root)
    codes: dict[str, str] = {}
    waiting = [file]
    while waiting:
        file = waiting.pop()
        name = f"file {file.relative_to(root)}"
        if name not in codes:
            try:
                tree = ast.parse(file.read_bytes())
            except (SyntaxError, ValueError):  # a file whose failed import the importer handles
                codes[name] = file.read_bytes().decode("latin-1")
                continue
            codes[name] = ast.unparse(_bare(tree))
            for dotted in _imported(tree, file.relative_to(root).parent.parts):
                if not is_installed or dotted[0] == module.partition(".")[0]:
                    place = root.joinpath(*dotted)
                    both = (place.with_suffix(".py"), place / "__init__.py")
                    waiting += [one for one in both if one.is_file()]
    return codes


def _imported(tree: ast.Module, package: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Modules that a file of a package may import, also in functions, and their parent packages."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            start = (*above, *(node.module or "").split(".")) if node.module else above
            names = [(*start, alias.name) for alias in node.names]
        else:
            continue
        for parts in names:
            yield from (parts[:end] for end in range(1, len(parts) + 1))


@functools.cache
def _code(function: Callable[..., Any]) -> str:
    return ast.unparse(_bare(ast.parse(textwrap.dedent(inspect.getsource(function)))))


@functools.cache
def _names(function: Callable[..., Any]) -> frozenset[str]:
    """Names in the code of a function."""
    nodes = ast.walk(ast.parse(_code(function)))
    return frozenset(node.id for node in nodes if isinstance(node, ast.Name))


def _bare(tree: ast.Module) -> ast.Module:
    """Remove docstrings from a syntax tree, in place."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module)
            and ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return tree
