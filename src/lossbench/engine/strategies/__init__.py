"""How the members of a pack compute: as a stack of products, by vmap, or in a loop."""

from __future__ import annotations

import logging

from lossbench.engine.members import Members, runs_one_by_one
from lossbench.engine.strategies.autograd import Autograd, looped, vectorised
from lossbench.engine.strategies.layers import layers_of
from lossbench.engine.strategies.rows import Rows, joined
from lossbench.engine.strategies.spec import Forward, State, Strategy
from lossbench.engine.strategies.stack import Stack

__all__ = ["Forward", "Rows", "State", "Strategy", "joined", "strategy_of"]

log = logging.getLogger(__name__)


def strategy_of(members: Members) -> Strategy:
    """The quickest strategy that serves the members' model on their device."""
    strategy = _chosen(members)
    log.debug("%s: strategy %s", members.runs[0].model.name, strategy.name)
    return strategy


def _chosen(members: Members) -> Strategy:
    is_cpu = members.places.device.type == "cpu"
    is_repeated = members.runs[0].signal != "own"
    if is_cpu and (layers := layers_of(members.model)) is not None:
        return Stack(layers)
    is_apart = runs_one_by_one(members.model, members.places.device)
    packed = None if is_apart else vectorised(members)
    if packed is not None:
        return Autograd("vmap", packed, is_repeated=is_repeated)
    return Autograd("loop", looped(members), is_repeated=is_repeated)
