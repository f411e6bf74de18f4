"""Registration of the user's losses, data sets and models, from modules or as single rows."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import logging
import pickle
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
from torch import Tensor, nn

from lossbench.data import DATA, Data
from lossbench.data.tables import SOURCE
from lossbench.errors import ConfigError, nearest
from lossbench.losses import LOSSES
from lossbench.losses.spec import NAME, Loss
from lossbench.models import MODELS, Model
from lossbench.user_code.containment import restoring_process_state

log = logging.getLogger(__name__)

Row = Loss | Data | Model

REGISTRIES: dict[type, tuple[str, dict[str, Any]]] = {
    Loss: ("LOSSES", LOSSES),
    Data: ("DATA", DATA),
    Model: ("MODELS", MODELS),
}
"""For each kind of row: the name of a module's tuple of rows, and the registry by name."""

CHANGING = (
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    *(nn.AlphaDropout, nn.FeatureAlphaDropout, nn.SyncBatchNorm),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    *(nn.LazyBatchNorm1d, nn.LazyBatchNorm2d, nn.LazyBatchNorm3d),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.LazyInstanceNorm1d, nn.LazyInstanceNorm2d, nn.LazyInstanceNorm3d),
)
"""Layers of torch that draw random numbers or keep statistics of earlier calls."""

_ADDED: dict[tuple[type, str], Row] = {}
_LOADED = [b""]  # the pickled rows that were loaded last


@dataclass(frozen=True)
class Own:
    """Losses, data sets and models of the user in a form that can be sent to other processes.

    Attributes:
        modules: Importable names of modules.
        rows: Pickled rows, with functions by value, since other processes cannot import them.
    """

    modules: tuple[str, ...] = ()
    rows: bytes = b""

    def load(self) -> None:
        """Import the modules and register the rows in this process.

        Raises:
            ConfigError: A module cannot be imported, or lists a value that is not a row.
        """
        load_extensions(self.modules)
        if self.rows and self.rows != _LOADED[0]:
            add(*pickle.loads(self.rows))
            _LOADED[0] = self.rows


def own_rows(modules: Iterable[str] = ()) -> Own:
    """Collect the user's modules and the rows that were registered by `add` in this process."""
    rows = cloudpickle.dumps([*_ADDED.values()]) if _ADDED else b""
    _LOADED[0] = rows
    return Own(tuple(modules), rows)


def add(*rows: Row) -> None:
    """Register rows by name; a new row replaces an added row of the same name.

    Raises:
        ConfigError: A row of lossbench or of a user's module has the name.
    """
    for row in rows:
        kind = type(row)
        known = REGISTRIES[kind][1]
        if row.name in known and (kind, row.name) not in _ADDED:
            raise ConfigError(f"{kind.__name__.lower()} {row.name!r} exists: rename yours")
        known[row.name] = _ADDED[kind, row.name] = row


def model_row(model: Any) -> Model:
    """Make the row of a function or class `(inputs, outputs) -> nn.Module`, named in lower case.

    Raises:
        ConfigError: The model is not a function or class, for example a built module.
    """
    if isinstance(model, Model):
        return model
    name = re.sub(r"\W+", "", getattr(model, "__name__", "")).lower().strip("_")
    if not callable(model) or not name:
        raise ConfigError(
            f"model {type(model).__name__}: give a function or class (inputs, outputs) -> module, "
            "which is called for every seed"
        )
    function: Callable[..., Any] = model if model.__name__ == name else renamed(model, name)
    return Model(function, SOURCE)


_model_row = functools.cache(model_row)
"""`model_row` with a cache, so that a function has the same row at every load of an extension."""


def renamed(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Wrap a function under another name."""
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"name {name!r}: use up to 40 small letters, digits and '_', a letter first"
        )

    @functools.wraps(function)
    def wrapper(*arguments: Any, **keywords: Any) -> Any:
        return function(*arguments, **keywords)

    wrapper.__name__ = name
    return wrapper


def is_added(row: Row) -> bool:
    """Whether `add` registered a row; the row's pickle gives all processes the same code."""
    return (type(row), row.name) in _ADDED


def load_extensions(modules: Iterable[str]) -> None:
    """Import modules, also of the current folder, and add their `LOSSES`, `DATA` and `MODELS`.

    Raises:
        ConfigError: The import fails, or a name is already taken by another row.
    """
    for name in modules:
        if not re.fullmatch(r"[A-Za-z_][\w.]*", name):
            raise ConfigError(f"extension {name!r}: use a module's name, not a path")
        if str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
        try:
            with restoring_process_state(f"extension {name}"):
                module = importlib.import_module(name)
        except Exception as error:
            raise ConfigError(
                f"extension {name!r} cannot be imported ({error}): "
                f"put {name}.py into this folder, or install it"
            ) from error
        for kind, (registry, rows) in REGISTRIES.items():
            for row in _listed(module, registry, kind):
                if rows.setdefault(row.name, row) is not row:
                    raise ConfigError(f"extension {name!r}: {row.name!r} exists: rename yours")


def _listed(module: ModuleType, registry: str, kind: type) -> list[Any]:
    """Rows in a module's tuple."""
    listed = getattr(module, registry, ())
    if not isinstance(listed, list | tuple):
        listed = (listed,)
    # A model may be listed as its function only.
    rows = [_model_row(row) if kind is Model and callable(row) else row for row in listed]
    if wrong := [row for row in rows if not isinstance(row, kind)]:
        row_type, name = kind.__name__, getattr(wrong[0], "__name__", "")
        bare = f"; a bare function is chosen as {row_type.lower()}=FILE.py:{name}" if name else ""
        raise ConfigError(
            f"extension {module.__name__!r}: its {registry} is not a tuple of {row_type}(...): "
            f"write {registry} = ({row_type}(...),){bare}"
        )
    return rows


def module_of(path: Path) -> ModuleType:
    """Import the module in a file, whose functions are pickled by value for other processes.

    Raises:
        ConfigError: The file does not exist, its name is not a free module name, or the import
            fails.
    """
    name, place = path.stem, path.resolve()
    if not place.is_file():
        raise ConfigError(f"there is no file {path}")
    if path.suffix != ".py":
        raise ConfigError(f"{path} is not a Python file: name one that ends in .py")
    if not name.isidentifier():
        raise ConfigError(f"{path}: rename it to letters, digits and '_', like my_losses.py")
    if name in sys.modules:
        other = getattr(sys.modules[name], "__file__", None)
        if other is not None and Path(other).resolve() == place:
            return sys.modules[name]
    else:
        spec_elsewhere = importlib.util.find_spec(name)
        other = spec_elsewhere and spec_elsewhere.origin
    if name in sys.modules or (other is not None and Path(other).resolve() != place):
        raise ConfigError(f"{path}: another module has the name {name!r}: rename the file")
    if str(place.parent) not in sys.path:
        sys.path.append(str(place.parent))  # for imports of files in the same folder
    spec = importlib.util.spec_from_file_location(name, place)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        with restoring_process_state(str(path)):
            spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise ConfigError(
            f"{path}{line} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    cloudpickle.register_pickle_by_value(module)
    return module


USUAL = ["output", "target"]
"""Usual names of the arguments of a loss."""


def losses_in(module: ModuleType, names: Sequence[str] = ()) -> Iterator[Callable[..., Any] | Loss]:
    """Find losses of a module: the named ones, or its rows and functions of two arguments.

    A class of torch modules whose `forward` takes an output and a target counts as a function.
    If functions have arguments named output and target, other functions are left out with a
    warning.

    Raises:
        ConfigError: There is no loss, or a named loss is missing.
    """
    rows = {row.name: row for row in getattr(module, "LOSSES", ()) if isinstance(row, Loss)}
    functions = {
        name: value
        for name, value in vars(module).items()
        if getattr(value, "__module__", "") == module.__name__ and name[0] != "_"
        if inspect.isfunction(value) or is_loss_class(value)
    }
    known = functions | rows
    for name in names:
        if name not in known:
            hint = nearest(name, known, otherwise=f"there are {', '.join(known) or 'none'}")
            raise ConfigError(f"{module.__name__}.py has no function {name!r}: {hint}")
        yield loss_of(known[name])
    if names:
        return
    fitting: dict[str, list[str]] = {}  # names of their arguments
    problems = []
    for name, one in functions.items():
        try:
            functions[name] = loss_of(one)
        except ConfigError as error:
            problems.append(str(error))
            continue
        needed = [kind.name for kind in _needed(functions[name])]
        if len(needed) == 2:
            fitting[name] = needed
    usual = [name for name, needed in fitting.items() if needed == USUAL]
    chosen = {**{name: functions[name] for name in usual or fitting}, **rows}
    if problems and not chosen:
        raise ConfigError("; ".join(problems))
    for problem in problems:
        log.warning("left out: %s", problem)
    if left := [*(fitting.keys() - chosen.keys())]:
        log.warning(
            "%s: %s left out, whose arguments are not called output and target: try it by name",
            module.__name__ + ".py", ", ".join(sorted(left)),
        )  # fmt: skip
    if not chosen:
        raise ConfigError(
            f"{module.__name__}.py has no function of an output and a target: write "
            "'def mine(output, target):', both [..., C], which returns one number per example"
        )
    called = [one.name if isinstance(one, Loss) else one.__name__ for one in chosen.values()]
    if doubles := {name for name in called if called.count(name) > 1}:
        raise ConfigError(
            f"{module.__name__}.py has several losses {', '.join(sorted(doubles))}: rename one (a "
            "class is called like itself in small letters)"
        )
    yield from chosen.values()


def is_loss_class(value: object) -> bool:
    """Whether a value is a class of torch modules that take an output and a target."""
    if not (inspect.isclass(value) and issubclass(value, nn.Module)):
        return False
    return len(_needed(value.forward)) == 3


def loss_of(value: Any) -> Any:
    """Return a loss unchanged; make a function, named in lower case, of a class of torch modules.

    Raises:
        ConfigError: The class needs arguments, cannot be instantiated, has parameters, draws random
            numbers, or keeps statistics of earlier calls.
    """
    if not is_loss_class(value):
        return value
    name, code = value.__name__, value.forward.__code__
    if needed := [kind.name for kind in _needed(value)]:
        raise ConfigError(f"{name}: give {', '.join(needed)} of its __init__ a default")
    try:
        with restoring_process_state(f"class {name}"):
            module = value()
    except Exception as error:
        raise ConfigError(f"{name}: its __init__ raises {type(error).__name__}: {error}") from error
    if parameters := [name for name, _ in module.named_parameters()]:
        raise ConfigError(
            f"{name}: nothing trains its parameters {', '.join(parameters)}: make "
            f"them numbers that are arguments of its __init__"
        )
    if kinds := {type(part).__name__ for part in module.modules() if isinstance(part, CHANGING)}:
        raise ConfigError(
            f"{name}: {', '.join(sorted(kinds))} draws random numbers or remembers "
            f"earlier calls, but a loss must return the same values at every call: leave it out"
        )

    def of_module(output: Tensor, target: Tensor) -> Tensor:
        return module(output, target)

    origin = {"co_filename": code.co_filename, "co_firstlineno": code.co_firstlineno}
    # The function gets the file and module of the class, for messages and for a run's identity.
    of_module.__code__ = of_module.__code__.replace(**origin)
    of_module.__module__ = value.__module__
    return renamed(of_module, re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", value.__name__).lower())


def _needed(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Positional arguments of a function without a default, in order, except `context`."""
    return [
        kind
        for kind in inspect.signature(function).parameters.values()
        if kind.default is kind.empty
        and kind.kind is kind.POSITIONAL_OR_KEYWORD
        and kind.name != "context"
    ]
