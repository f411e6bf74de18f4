"""Strategies for any module: vectorised over members, or one member after the other."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lossbench.engine.batches import Batch
from lossbench.engine.members import Members
from lossbench.engine.strategy import GradientOf, Named, Strategy
from lossbench.models import called

Forward = Callable[[dict[str, Tensor], dict[str, Tensor], Tensor], Tensor]
"""Function from parameters, buffers (by name) and inputs to outputs; may write into buffers."""


class Autograd(Strategy):
    """Strategy with any forward pass of all members, whose gradient is computed by autograd."""

    def __init__(self, members: Members, forward: Forward) -> None:
        self._forward = forward
        self._is_repeated = members.runs[0].signal != "own"  # needs several gradients per output

    def arranged(self, parameters: Named) -> dict[str, Tensor]:
        """Copy the parameters."""
        return {name: value.clone() for name, value in parameters.items()}

    def spans(self, count: int, rows: int, like: Tensor) -> list[slice]:
        """One slice with all members."""
        return [slice(0, count)]

    def memory(self, parameters: Named, rows: int) -> None:
        """Return None, because autograd allocates memory."""

    def forward(self, parameters: Named, buffers: Named, inputs: Tensor) -> Tensor:
        """Outputs, see `Strategy.forward`."""
        return self._forward(dict(parameters), dict(buffers), inputs)

    def trained(
        self, parameters: Named, buffers: Named, batch: Batch, memory: None
    ) -> tuple[Tensor, GradientOf]:
        """Outputs and gradients, see `Strategy.trained`."""
        leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        output = self._forward(leaves, dict(buffers), batch.all)

        def gradient_of(output_gradient: Tensor) -> dict[str, Tensor]:
            mean = output_gradient / output_gradient.shape[1]
            gradients = torch.autograd.grad(
                output, [*leaves.values()], mean, retain_graph=self._is_repeated
            )
            return dict(zip(leaves, gradients, strict=True))

        return output.detach(), gradient_of


class Vectorised(Autograd):
    """Strategy that computes all members in one call, with vmap."""

    name = "vmap"

    def __init__(self, members: Members) -> None:
        super().__init__(members, torch.func.vmap(called(members.model)))


class Looped(Autograd):
    """Strategy that computes one member after the other; a gradient needs memory for one member."""

    name = "loop"

    def __init__(self, members: Members) -> None:
        super().__init__(members, one_by_one(called(members.model)))


def one_by_one(of_member: Forward) -> Forward:
    """Make a forward pass of K members that calls a member's forward pass K times."""

    def forward(
        parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor
    ) -> Tensor:
        # unbind, because the gradient of an indexing operation is as large as the whole pack.
        members = zip(*(value.unbind() for value in parameters.values()), strict=True)
        outputs = []
        for place, values in enumerate(members):
            moving = {name: value[place] for name, value in buffers.items()}
            weights = dict(zip(parameters, values, strict=True))
            outputs.append(of_member(weights, moving, inputs[place]))
        return torch.stack(outputs)

    return forward
