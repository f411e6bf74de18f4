"""Strategies for any module: vectorised over the members, or one member after the other."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from lossbench.engine.members import Batch, Members
from lossbench.engine.strategies.compiled import compiled, pays
from lossbench.engine.strategies.spec import Named, Strategy
from lossbench.models import called


class Autograd(Strategy):
    """Any forward pass; the gradient is autograd's.

    Args:
        members: The pack.
        of_batch: Its forward pass on a batch; that of any rows unless another is quicker.
    """

    def __init__(self, members: Members, of_batch: Callable[..., Tensor]) -> None:
        self._of_batch = of_batch
        self._is_repeated = members.runs[0].signal != "own"  # more than one gradient of an output
        self._leaves: dict[str, Tensor] = {}
        self._output: Tensor | None = None

    @abstractmethod
    def forward(self, parameters: Named, buffers: Named, inputs: Tensor) -> Tensor:
        """Outputs, see `Strategy.forward`."""

    def arranged(self, parameters: Named) -> dict[str, Tensor]:
        """A copy."""
        return {name: value.clone() for name, value in parameters.items()}

    def at_once(self, count: int, inputs: Tensor) -> list[slice]:
        """All of them."""
        return [slice(0, count)]

    def output(self, parameters: Named, buffers: Named, batch: Batch) -> Tensor:
        """Outputs of a batch, see `Strategy.output`."""
        self._output = None  # lets go of what the last one kept
        self._leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        self._output = self._of_batch(self._leaves, dict(buffers), batch.all)
        return self._output.detach()

    def gradient(self, output_gradient: Tensor) -> dict[str, Tensor]:
        """Gradient of the mean loss, see `Strategy.gradient`."""
        assert self._output is not None, "a gradient is that of an output: ask for one first"
        leaves, mean = [*self._leaves.values()], output_gradient / output_gradient.shape[1]
        found = torch.autograd.grad(self._output, leaves, mean, retain_graph=self._is_repeated)
        return dict(zip(self._leaves, found, strict=True))


class Vectorised(Autograd):
    """All members in one call, on a batch through torch.compile where that pays."""

    def __init__(self, members: Members) -> None:
        self._packed = torch.func.vmap(called(members.model))
        self._compiled = compiled(members) if pays(members) else None
        super().__init__(members, self._compiled or self._packed)

    @property
    def name(self) -> str:
        """What is recorded of it."""
        is_compiled = self._compiled is not None and self._compiled.is_compiled
        return "vmap compiled" if is_compiled else "vmap"

    def apart(self, members: Members) -> list[slice]:
        """None: all of them together."""
        return [slice(0, len(members.runs))]

    def forward(self, parameters: Named, buffers: Named, inputs: Tensor) -> Tensor:
        """Outputs, see `Strategy.forward`."""
        return self._packed(dict(parameters), dict(buffers), inputs)


class Looped(Autograd):
    """One member after the other: what is kept for a gradient is one member's at a time."""

    def __init__(self, members: Members) -> None:
        self._one = called(members.model)
        super().__init__(members, self.forward)

    @property
    def name(self) -> str:
        """What is recorded of it."""
        return "loop"

    def apart(self, members: Members) -> list[slice]:
        """Each on its own."""
        return [slice(place, place + 1) for place in range(len(members.runs))]

    def forward(self, parameters: Named, buffers: Named, inputs: Tensor) -> Tensor:
        """Outputs, see `Strategy.forward`."""
        return one_by_one(self._one, parameters, buffers, inputs)


def one_by_one(
    one: Callable[[dict[str, Tensor], dict[str, Tensor], Tensor], Tensor],
    parameters: Named,
    buffers: Named,
    inputs: Tensor,
) -> Tensor:
    """What a function makes of each member on its own, [K, ...].

    Args:
        one: Of a member's parameters, buffers and inputs; it may change buffers in place.
        parameters: By name, [K, ...].
        buffers: By name, [K, ...].
        inputs: [K, N, ...].
    """
    # unbind, because the gradient of an index is as large as the whole pack.
    own = zip(*(value.unbind() for value in parameters.values()), strict=True)
    outputs = []
    for place, values in enumerate(own):
        moving = {name: value[place] for name, value in buffers.items()}
        named = dict(zip(parameters, values, strict=True))
        outputs.append(one(named, moving, inputs[place]))
    return torch.stack(outputs)
