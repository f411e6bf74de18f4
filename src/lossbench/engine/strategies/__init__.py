"""How the members of a pack compute: as a stack of products, by vmap, or in a loop."""

from __future__ import annotations

import logging

from torch.nn.modules.conv import _ConvNd

from lossbench.engine.members import Members
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
    # On the CPU a convolution over a pack is slower than one member after the other.
    is_convolution = any(isinstance(module, _ConvNd) for module in members.model.modules())
    packed = None if is_cpu and is_convolution else vectorised(members)
    if packed is not None:
        return Autograd("vmap", packed, is_repeated=is_repeated)
    return Autograd("loop", looped(members), is_repeated=is_repeated)
