"""The forward pass of a pack through torch.compile: of models with convolutions.

Batched products of perceptrons lose by it, or gain nothing.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd

from lossbench.engine.members import Members
from lossbench.engine.strategies.autograd import Autograd, Forward
from lossbench.engine.strategy import Unserved
from lossbench.models import called

log = logging.getLogger(__name__)

VERSION = ""
"""PyTorch's own, which stands for itself."""

BACKEND = "inductor"
"""What compiles."""

_last: dict[Any, CompiledForward] = {}
"""The one that was compiled last, by all that its shapes follow from: packs of a sweep share it."""


def compute(members: Members) -> Compiled:
    """A strategy with the forward pass compiled once for all packs of the members' shapes.

    Raises:
        Unserved: No convolutions; or a signal that needs two gradients of one output, because what
            was compiled lets go of the output with the first.
    """
    run = members.runs[0]
    if members.is_apart:
        raise Unserved("its members run one by one")
    if run.signal != "own":
        raise Unserved(f"signal {run.signal}, which needs two gradients of one output")
    if not any(isinstance(part, _ConvNd) for part in members.model.modules()):
        raise Unserved("it has no convolutions")
    shapes = [(name, *value.shape) for name, value in members.parameters.items()]
    batch = members.inputs["train"].shape[2:], run.batch_size, members.device, run.precision
    key = (run.model.fn, repr(run.model.params), *shapes, *batch)
    if key not in _last:
        if _last:
            torch.compiler.reset()  # another shape would count as one recompilation more
            _last.clear()
        _last[key] = CompiledForward(copy.deepcopy(members.model).train())
    return Compiled(members, _last[key])


class Compiled(Autograd):
    """All members in one call, on a batch by what was compiled."""

    def __init__(self, members: Members, of_batch: CompiledForward) -> None:
        super().__init__(members, torch.func.vmap(called(members.model)), of_batch)
        self._compiled = of_batch

    @property
    def name(self) -> str:
        """What is recorded of it."""
        return "vmap compiled" if self._compiled.is_compiled else "vmap"

    def parts(self, members: Members) -> list[slice]:
        """All of them together."""
        return [slice(0, len(members.runs))]


class CompiledForward:
    """A forward pass that is compiled with its first batch; as it is where that cannot be done.

    Args:
        model: What all members share; nothing else may hold it.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._plain: Forward = torch.func.vmap(called(model))
        self._quick: Forward = torch.compile(
            self._plain, fullgraph=True, dynamic=False, backend=BACKEND
        )
        self.is_compiled, self._is_tried = True, False

    def __call__(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor
    ) -> Tensor:
        """Outputs [K, B, W]. Args: as `Strategy.forward`."""
        if not self._is_tried:
            # Both passes: the backward one is compiled only when it is first asked for.
            self._is_tried = True
            copies = {name: value.clone() for name, value in buffers.items()}
            try:
                output = self._quick(parameters, copies, inputs)
                torch.autograd.grad(output.sum(), [*parameters.values()])
            except Exception as error:
                log.warning("the model is not compiled: %s", str(error).partition("\n")[0])
                self.is_compiled = False
        forward = self._quick if self.is_compiled else self._plain
        return forward(parameters, buffers, inputs)
