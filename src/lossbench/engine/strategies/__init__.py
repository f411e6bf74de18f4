"""How the members of a pack compute: as a stack of products, by vmap, or in a loop."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from torch import Tensor

from lossbench.engine.members import Members
from lossbench.engine.strategies.autograd import Looped, Vectorised, one_by_one
from lossbench.engine.strategies.layers import layers_of
from lossbench.engine.strategies.rows import Rows, joined
from lossbench.engine.strategies.spec import Named, Strategy
from lossbench.engine.strategies.stack import Stack

if TYPE_CHECKING:
    from lossbench.engine.strategies.kernel import Kernel

__all__ = [
    "Named",
    "Rows",
    "Strategy",
    "joined",
    "kernel_maker",
    "kernel_of",
    "one_by_one",
    "strategy_of",
]

log = logging.getLogger(__name__)

KERNEL_DEVICES = {"cuda"}
"""Types of device on which the kernel is asked for."""


def strategy_of(members: Members) -> Strategy:
    """The quickest strategy that serves the members' model on their device."""
    strategy = _chosen(members)
    log.debug("%s: strategy %s", members.runs[0].model.name, strategy.name)
    return strategy


def _chosen(members: Members) -> Strategy:
    if members.is_apart:
        return Looped(members)
    layers = layers_of(members.model)
    return Stack(layers) if layers is not None else Vectorised(members)


def kernel_maker() -> str:
    """What compiles the kernel, which bits depend on; empty where there is no such thing."""
    try:
        import triton
    except ImportError:
        return ""
    return f"triton {triton.__version__}"


def kernel_of(members: Members, factors: Tensor) -> Kernel | None:
    """What makes many updates of the members in one launch; None where nothing does.

    Args:
        members: The pack.
        factors: What the schedule makes of the learning rate, by update, [T].
    """
    if members.places.device.type not in KERNEL_DEVICES:
        return None
    try:
        from lossbench.engine.strategies import kernel
    except ImportError as error:
        why = str(error)  # Triton is not everywhere
    else:
        why = kernel.refusal(members)
        if not why:
            return kernel.Kernel(members, factors)
    log.info("%s trains without the kernel: %s", members.runs[0].model.name, why)
    return None
