"""How the members of a pack compute and advance: a registry, a line for each optional way.

Deleting the file of an optional strategy and its line in `OPTIONS` deletes it: nothing else knows
its name. Such a module has a `VERSION` and one function,
    compute(members) -> Strategy, or
    advance(members, updates, inner) -> Advance, around another one,
which raises `Unserved` with the reason where it cannot serve a pack.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from lossbench.engine.members import Members
from lossbench.engine.strategies.autograd import Looped, Vectorised, one_by_one
from lossbench.engine.strategies.layers import layers_of
from lossbench.engine.strategies.stack import Stack
from lossbench.engine.strategy import Advance, Logged, Named, Strategy, Unserved
from lossbench.engine.update import Updates
from lossbench.errors import refuse_unknown

__all__ = [
    "OPTIONS",
    "Advance",
    "Logged",
    "Named",
    "Strategy",
    "advance_of",
    "check",
    "one_by_one",
    "strategy_of",
    "versions",
]

log = logging.getLogger(__name__)


class Option(NamedTuple):
    """A strategy that is used where it is named and serves.

    Attributes:
        kind: The function its module has: "compute" or "advance".
        devices: Types of device that it is for.
    """

    kind: str
    devices: tuple[str, ...]


OPTIONS = {
    "compiled": Option("compute", ("cuda",)),
    "graph": Option("advance", ("cuda",)),
    "kernel": Option("advance", ("cuda",)),
}
"""Optional strategies by the names of their modules; later ones are put around earlier ones. None
is used by default, because no card has shown its worth."""


def check(names: Sequence[str], device: str) -> None:
    """Refuse names of no optional strategy; say which ones this device cannot use.

    Raises:
        ConfigError: An unknown name; says the nearest one.
    """
    for name in names:
        refuse_unknown(name, OPTIONS, "engine.strategies:")
        if device not in OPTIONS[name].devices:
            known = " and ".join(OPTIONS[name].devices)
            log.warning(
                "engine.strategies names %s, which is for %s: on %s packs train without it",
                *(name, known, device),
            )


def versions(names: Sequence[str]) -> str:
    """Optional strategies and what their bits depend on, as text; empty without any."""
    parts = []
    for name in sorted(names):
        try:
            parts.append(f"{name} {_module(name).VERSION}".strip())
        except ImportError:
            continue  # packs train without it
    return ", ".join(parts)


def strategy_of(members: Members, names: Sequence[str] = ()) -> Strategy:
    """What computes the members' outputs and gradients: an optional strategy or a plain one."""
    strategy = _plain(members)
    for name in OPTIONS:
        if name in names and OPTIONS[name].kind == "compute":
            try:
                strategy = _serving(members, name).compute(members)
            except (Unserved, ImportError) as error:
                _say_unserved(members, name, error)
    log.debug("%s: strategy %s", members.runs[0].model.name, strategy.name)
    return strategy


def _plain(members: Members) -> Strategy:
    """The quickest strategy that serves the members' model on their device."""
    if members.is_apart:
        return Looped(members)
    layers = layers_of(members.model)
    return Stack(layers) if layers is not None else Vectorised(members)


def advance_of(members: Members, updates: Updates, names: Sequence[str] = ()) -> Advance:
    """What makes the members' updates: `updates` one by one, or an optional strategy around it."""
    way: Advance = updates
    for name in OPTIONS:
        if name in names and OPTIONS[name].kind == "advance":
            try:
                way = _serving(members, name).advance(members, updates, way)
            except (Unserved, ImportError) as error:
                _say_unserved(members, name, error)
    return way


def _serving(members: Members, name: str) -> Any:
    """The module of an optional strategy.

    Raises:
        Unserved: It is for other devices.
    """
    device = members.device.type
    if device not in OPTIONS[name].devices:
        raise Unserved(f"it is for {' and '.join(OPTIONS[name].devices)}, not for {device}")
    return _module(name)


def _module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}")


def _say_unserved(members: Members, name: str, error: Exception) -> None:
    log.info("%s trains without the %s: %s", members.runs[0].model.name, name, error)
