"""Hash of a function of a script or notebook: the code, and all live objects in reach of the code.

A file of the user is hashed as a whole. A script or notebook is edited all the time, so a function
there is hashed with all objects that the function names: globals, closures, defaults, decorators,
classes with members and bases, objects with content. Position, comments and layout do not count.
"""

from __future__ import annotations

import copyreg
import dis
import functools
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
import torch

from lossbench.errors import ConfigError
from lossbench.store import sha256

NOT_OF_A_CLASS = {"__dict__", "__weakref__", "__doc__", "__module__", "__firstlineno__"}
NOT_OF_A_CLASS |= {"__static_attributes__", "__annotations__", "__annotate_func__"}

EMPTY = types.CellType()
"""Cell of a variable without a value; it equals only cells that are empty too."""


def content(value: Any, files: Callable[[str], str | None]) -> str:
    """Hex sha256 of a function, class or any other object.

    `files` maps a module's name to the code of its files: None for a script or notebook, whose
    objects are hashed; empty for installed modules, whose names are hashed.
    """
    return sha256(repr(_Walk(files).parts(value)).encode())


class _Walk:
    """Walk over objects; an object met before is described by an index, so that cycles end."""

    def __init__(self, files: Callable[[str], str | None]) -> None:
        self.files = files
        self.met: dict[int, int] = {}
        self.alive: list[Any] = []  # keeps the objects, so that no id is used twice

    def parts(self, value: Any) -> Any:
        """Describe an object by nested lists of texts, equal for equal objects."""
        if value is None or isinstance(value, bool | int | float | complex | str | bytes):
            return repr(value)
        if id(value) in self.met:
            return f"met {self.met[id(value)]}"
        self.met[id(value)] = len(self.met)
        self.alive.append(value)
        kind = type(value).__name__
        match value:
            case torch.Tensor():
                flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                return [kind, str(value.dtype), list(value.shape), sha256(flat.numpy().tobytes())]
            case np.ndarray() if value.dtype != object:
                return [kind, str(value.dtype), list(value.shape), sha256(value.tobytes())]
            case pd.DataFrame() | pd.Series() | pd.Index():
                names = getattr(value, "columns", getattr(value, "name", None))
                content = pd.util.hash_pandas_object(value).to_numpy().tobytes()
                return [kind, repr(names), sha256(content)]
            case types.FunctionType() | type():
                return self.code_or_name(value)
            case types.ModuleType():
                return [kind, value.__name__, self.files(value.__name__)]
            case types.MethodType():
                return [kind, self.parts(value.__func__), self.parts(value.__self__)]
            case staticmethod() | classmethod():
                return [kind, self.parts(value.__func__)]
            case property():
                return [kind, *map(self.parts, (value.fget, value.fset, value.fdel))]
            case functools.partial():
                return [kind, *map(self.parts, (value.func, value.args, value.keywords))]
            case Mapping():
                pairs = [[self.parts(key), self.parts(one)] for key, one in value.items()]
                return [kind, pairs, self.state(value)]
            case list() | tuple():
                return [kind, *map(self.parts, value), self.state(value)]
            case set() | frozenset():
                inner = sorted(repr(self.parts(one)) for one in value)
                return [kind, *inner, self.state(value)]
        if callable(value) and hasattr(value, "__wrapped__"):  # for example by functools.cache
            return [kind, self.parts(value.__wrapped__)]
        if hasattr(value, "__qualname__"):  # a function written in C
            return [kind, str(getattr(value, "__module__", "")), value.__qualname__]
        has_state = hasattr(value, "__dict__") or copyreg._slotnames(type(value))  # type: ignore[attr-defined]
        if has_state:
            return [kind, self.parts(type(value)), self.state(value)]
        try:
            return [kind, self.parts(type(value)), sha256(cloudpickle.dumps(value))]
        except Exception as error:
            raise ConfigError(
                f"a {kind} that a function of your own uses cannot be compared ({error}): make it "
                "within the function, or keep the function in a file"
            ) from error

    def state(self, value: Any) -> Any:
        """Describe the attributes of an object, including slots; empty without attributes."""
        slots = [name for name in copyreg._slotnames(type(value)) if hasattr(value, name)]  # type: ignore[attr-defined]
        state = {**getattr(value, "__dict__", {}), **{name: getattr(value, name) for name in slots}}
        return self.parts(dict(sorted(state.items()))) if state else []

    def code_or_name(self, value: Any) -> list[Any]:
        """Describe a user's function or class by code; any other by name."""
        files = self.files(value.__module__ or "")
        name = [str(value.__module__), value.__qualname__]
        if files is not None:
            return [*name, files]
        if isinstance(value, type):
            members = {
                key: one
                for key, one in vars(value).items()
                if key not in NOT_OF_A_CLASS and not inspect.isgetsetdescriptor(one)
            }
            return [*name, self.parts(value.__bases__), self.parts(dict(sorted(members.items())))]
        named = sorted(_names(value.__code__) & value.__globals__.keys())
        cells = [cell.cell_contents for cell in value.__closure__ or () if cell != EMPTY]
        return [
            _steps(value.__code__),
            self.parts((value.__defaults__, value.__kwdefaults__, cells, vars(value))),
            self.parts({one: value.__globals__[one] for one in named}),
        ]


def _names(code: types.CodeType) -> set[str]:
    """Names of globals in code and in nested code."""
    inner = [one for one in code.co_consts if isinstance(one, types.CodeType)]
    loads = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
    names = {str(one.argval) for one in dis.get_instructions(code) if one.opname in loads}
    return names.union(*map(_names, inner))


def _steps(code: types.CodeType) -> list[Any]:
    """Operations with operands, including those of nested code."""
    steps: list[Any] = [[*code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]]]
    for one in dis.get_instructions(code):
        if isinstance(one.argval, types.CodeType):
            steps.append([one.opname, _steps(one.argval)])
        elif isinstance(one.argval, frozenset):  # the order of a set differs between processes
            steps.append([one.opname, sorted(map(repr, one.argval))])
        else:
            steps.append(f"{one.opname} {one.argrepr}")
    return steps
