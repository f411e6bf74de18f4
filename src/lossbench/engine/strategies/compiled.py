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
from lossbench.engine.strategy import Strategy, Unserved
from lossbench.models import called

log = logging.getLogger(__name__)

VERSION = ""
"""PyTorch's own, which stands for itself."""

BACKEND = "inductor"
"""What compiles."""


class Service:
    """Compiles a forward pass once for all packs of the same shapes that come one after the other.

    Attributes:
        forward: What was compiled last; None before.
    """

    def __init__(self) -> None:
        self.forward: CompiledForward | None = None
        self._shapes: tuple[Any, ...] = ()

    def compute(self, members: Members, inner: Strategy) -> Compiled:
        """A strategy that has the forward pass of a batch compiled, in the place of `inner`.

        Raises:
            Unserved: No convolutions; or a signal that needs two gradients of one output, because
                what was compiled lets go of the output with the first.
        """
        run = members.runs[0]
        if members.is_apart:
            raise Unserved("its members run one by one")
        if run.signal != "own":
            raise Unserved(f"signal {run.signal}, which needs two gradients of one output")
        if not any(isinstance(module, _ConvNd) for module in members.model.modules()):
            raise Unserved("it has no convolutions")
        parameters = [(name, *value.shape) for name, value in members.parameters.items()]
        batch = members.inputs["train"].shape[2:], run.batch_size, members.device, run.precision
        shapes = (run.model.fn, repr(run.model.params), *parameters, *batch)
        if self.forward is None or shapes != self._shapes:
            if self.forward is not None:
                torch.compiler.reset()  # another shape would count as one recompilation more
            self.forward = CompiledForward(copy.deepcopy(members.model).train())
            self._shapes = shapes
        return Compiled(members, self.forward)


class Compiled(Autograd):
    """All members in one call, on a batch by what was compiled."""

    def __init__(self, members: Members, of_batch: CompiledForward) -> None:
        super().__init__(members, torch.func.vmap(called(members.model)), of_batch)
        self._compiled = of_batch

    @property
    def name(self) -> str:
        """What is recorded of it."""
        return "vmap compiled" if self._compiled.is_compiled else "vmap"


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
