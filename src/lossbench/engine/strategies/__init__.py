"""How the members of a pack compute and advance: a registry, a line for each optional strategy.

Deleting the file of an optional strategy and its line in `OPTIONS` deletes it: nothing else knows
its name. Such a module has a `VERSION` and a class `Service`, an object of which serves the packs
that one process trains, by
    compute(members, inner) -> Strategy, or
    advance(members, updates, inner) -> Advance,
in the place of another one or around it; they raise `Unserved` with the reason where they cannot
serve a pack.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from lossbench.engine.members import Members
from lossbench.engine.strategies.autograd import Looped, Vectorised
from lossbench.engine.strategies.layers import layers_of
from lossbench.engine.strategies.stack import Stack
from lossbench.engine.strategy import Advance, Strategy, Unserved
from lossbench.engine.update import Updates
from lossbench.errors import refuse_unknown

log = logging.getLogger(__name__)


class Option(NamedTuple):
    """A strategy that is used where it is named and serves.

    Attributes:
        kind: The method its `Service` has: "compute" or "advance".
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
    texts = []
    for name in sorted(names):
        try:
            texts.append(f"{name} {_module(name).VERSION}".strip())
        except ImportError:
            continue  # packs train without it
    return ", ".join(texts)


class Services:
    """The strategies of the packs that a process trains, one after the other."""

    def __init__(self) -> None:
        self._by_name: dict[str, Any] = {}

    def strategy_of(self, members: Members, names: Sequence[str] = ()) -> Strategy:
        """What computes the members' outputs and gradients: an optional strategy or a plain one."""
        layers = layers_of(members.model)
        if members.is_apart:
            plain: Strategy = Looped(members)
        else:
            plain = Stack(layers) if layers is not None else Vectorised(members)
        strategy = self._served("compute", members, names, (), plain)
        log.debug("%s: strategy %s", members.runs[0].model.name, strategy.name)
        return strategy

    def advance_of(self, members: Members, updates: Updates, names: Sequence[str] = ()) -> Advance:
        """What makes the members' updates: `updates` one by one, or optional ones around it."""
        return self._served("advance", members, names, (updates,), updates)

    def of(self, name: str) -> Any:
        """The `Service` of an optional strategy."""
        if name not in self._by_name:
            self._by_name[name] = _module(name).Service()
        return self._by_name[name]

    def _served(
        self, kind: str, members: Members, names: Sequence[str], args: tuple[Any, ...], inner: Any
    ) -> Any:
        """What is left, or made of it, by all optional strategies of a kind that are named."""
        device = members.device.type
        for name, option in OPTIONS.items():
            if name not in names or option.kind != kind:
                continue
            try:
                if device not in option.devices:
                    raise Unserved(f"it is for {' and '.join(option.devices)}, not for {device}")
                inner = getattr(self.of(name), kind)(members, *args, inner)
            except (Unserved, ImportError) as error:
                log.info("%s trains without the %s: %s", members.runs[0].model.name, name, error)
        return inner


def _module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}")
