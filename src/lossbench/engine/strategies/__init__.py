"""How the members of a pack compute: as a stack of products, by vmap, or in a loop."""

from __future__ import annotations

import logging

from lossbench.engine.members import Members
from lossbench.engine.strategies.autograd import Looped, Vectorised, one_by_one
from lossbench.engine.strategies.layers import layers_of
from lossbench.engine.strategies.rows import Rows, joined
from lossbench.engine.strategies.spec import Named, Strategy
from lossbench.engine.strategies.stack import Stack

__all__ = ["Named", "Rows", "Strategy", "joined", "one_by_one", "strategy_of"]

log = logging.getLogger(__name__)


def strategy_of(members: Members) -> Strategy:
    """The quickest strategy that serves the members' model on their device."""
    strategy = _chosen(members)
    log.debug("%s: strategy %s", members.runs[0].model.name, strategy.name)
    return strategy


def _chosen(members: Members) -> Strategy:
    if members.is_apart:
        return Looped(members)
    layers = layers_of(members.model)
    is_cpu = members.places.device.type == "cpu"
    return Stack(layers) if is_cpu and layers is not None else Vectorised(members)
