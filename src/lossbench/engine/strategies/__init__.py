"""Selection of the strategies by which the members of a pack compute and update."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from lossbench.engine.machine import Machine
from lossbench.engine.members import Members
from lossbench.engine.strategies.autograd import Looped, Vectorised
from lossbench.engine.strategies.graph import Graphs
from lossbench.engine.strategies.perceptron import layers_of
from lossbench.engine.strategies.stack import Stack
from lossbench.engine.strategy import Advance, Strategy
from lossbench.engine.update import Updates
from lossbench.errors import refuse_unknown

log = logging.getLogger(__name__)

OPTIONS: dict[str, tuple[str, ...]] = {"graph": ("cuda",)}
"""Optional strategies, each with its types of device. No optional strategy is used by default,
because none has been shown to be faster on a GPU."""


def check(names: Sequence[str], device: str) -> None:
    """Refuse unknown names of strategies, and warn of strategies that this device cannot use.

    Raises:
        ConfigError: A name is unknown; the message gives the nearest name.
    """
    for name in names:
        refuse_unknown(name, OPTIONS, "engine.strategies:")
        if device not in OPTIONS[name]:
            log.warning(
                "engine.strategies names %s, which is for %s: on %s packs train without it",
                *(name, " and ".join(OPTIONS[name]), device),
            )


def strategy_of(members: Members) -> Strategy:
    """Choose the fastest strategy that can compute outputs and gradients of the members' model."""
    layers = layers_of(members.model)
    if members.is_apart:
        strategy: Strategy = Looped(members)
    else:
        strategy = Stack(layers) if layers is not None else Vectorised(members)
    log.debug("%s: strategy %s", members.runs[0].model.name, strategy.name)
    return strategy


def advance_of(updates: Updates, machine: Machine) -> Advance:
    """Choose how to make updates: one by one, or as CUDA graphs if these are named and possible."""
    if "graph" not in machine.strategies:
        return updates
    device, has_failed = machine.device.type, machine.captures.has_failed
    if device in OPTIONS["graph"] and not has_failed:
        return Graphs(updates, machine.captures)
    reason = "a recording failed in this process" if has_failed else f"not for {device}"
    log.info("this pack trains without a CUDA graph: %s", reason)
    return updates
