"""The forward pass of a pack through torch.compile, where that is known to pay."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd

from lossbench.engine.members import Members
from lossbench.models import called

log = logging.getLogger(__name__)

Forward = Callable[[dict[str, Tensor], dict[str, Tensor], Tensor], Tensor]

BACKENDS = {"cuda": "inductor"}
"""What compiles, by type of device."""

_last: dict[Any, Compiled] = {}
"""The one that was compiled last, by all that its shapes follow from: packs of a sweep share it."""


def pays(members: Members) -> bool:
    """Whether compiling is worth its seconds: measured so for convolutions on CUDA, and only there.

    Batched products of perceptrons lose by it, or gain nothing. Signals that need two gradients of
    one output are not for it: what was compiled lets go of the output with the first.
    """
    is_there = members.places.device.type in BACKENDS and members.runs[0].signal == "own"
    return is_there and any(isinstance(part, _ConvNd) for part in members.model.modules())


def compiled(members: Members) -> Compiled:
    """The forward pass of all members on a batch, compiled once for all packs of their shapes."""
    run = members.runs[0]
    shapes = [(name, *value.shape) for name, value in members.parameters.items()]
    places = members.places
    batch = members.inputs["train"].shape[2:], run.batch_size, places.device, run.precision
    key = (run.model.fn, repr(run.model.params), *shapes, *batch)
    if key not in _last:
        if _last:
            torch.compiler.reset()  # another shape would count as one recompilation more
            _last.clear()
        _last[key] = Compiled(copy.deepcopy(members.model).train(), BACKENDS[places.device.type])
    return _last[key]


class Compiled:
    """A forward pass that is compiled with its first batch; as it is where that cannot be done.

    Args:
        model: What all members share; nothing else may hold it.
        backend: Of torch.compile.
    """

    def __init__(self, model: torch.nn.Module, backend: str) -> None:
        self._plain: Forward = torch.func.vmap(called(model))
        self._quick: Forward = torch.compile(
            self._plain, fullgraph=True, dynamic=False, backend=backend
        )
        self.is_compiled, self._is_tried = True, False

    def __call__(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor
    ) -> Tensor:
        """Outputs [K, B, W]. Args: as `Strategy.forward`."""
        if not self._is_tried:
            self._try(parameters, buffers, inputs)
        forward = self._quick if self.is_compiled else self._plain
        return forward(parameters, buffers, inputs)

    def _try(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor
    ) -> None:
        """Compile both passes: the backward one is compiled only when it is first asked for."""
        self._is_tried = True
        copies = {name: value.clone() for name, value in buffers.items()}
        try:
            output = self._quick(parameters, copies, inputs)
            torch.autograd.grad(output.sum(), [*parameters.values()])
        except Exception as error:
            log.warning("the model is not compiled: %s", str(error).partition("\n")[0])
            self.is_compiled = False
