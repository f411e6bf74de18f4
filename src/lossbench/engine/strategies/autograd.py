"""Strategies for any module: vectorised over the members, or one member after the other."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from lossbench.engine.members import Members
from lossbench.engine.strategies.spec import Forward, State, Strategy

log = logging.getLogger(__name__)


class Autograd(Strategy):
    """Any forward pass; the gradient is autograd's.

    Args:
        name: What is recorded of it.
        forward: Of all members.
        is_repeated: Whether more than one gradient is asked of an output.
    """

    def __init__(self, name: str, forward: Forward, *, is_repeated: bool) -> None:
        self.name, self._forward, self._is_repeated = name, forward, is_repeated
        self._leaves: dict[str, Tensor] = {}
        self._output: Tensor | None = None

    def arranged(self, parameters: State) -> dict[str, Tensor]:
        """A copy."""
        return {name: value.clone() for name, value in parameters.items()}

    def at_once(self, inputs: Tensor) -> list[slice]:
        """All of them."""
        return [slice(0, len(inputs))]

    def forward(self, parameters: State, buffers: State, inputs: Tensor) -> Tensor:
        """Outputs, see `Strategy.forward`."""
        return self._forward(parameters, buffers, inputs)

    def output(self, parameters: State, buffers: State, inputs: Tensor) -> Tensor:
        """Outputs of a batch, see `Strategy.output`."""
        self._output = None  # lets go of what the last one kept
        self._leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        self._output = self._forward(self._leaves, buffers, inputs)
        return self._output.detach()

    def gradient(self, slope: Tensor) -> dict[str, Tensor]:
        """Gradient of the mean loss, see `Strategy.gradient`."""
        assert self._output is not None, "a gradient is that of an output: ask for one first"
        leaves, mean = [*self._leaves.values()], slope / slope.shape[1]
        slopes = torch.autograd.grad(self._output, leaves, mean, retain_graph=self._is_repeated)
        return dict(zip(self._leaves, slopes, strict=True))


def vectorised(members: Members) -> Forward | None:
    """All members' forward pass as vmap over their stacked state; None if the model forbids it."""
    packed = torch.func.vmap(_call(members.model))
    buffers = {name: value.clone() for name, value in members.buffers.items()}
    try:
        with torch.no_grad():
            packed(members.parameters, buffers, members.batch(0)[0])
    except (RuntimeError, ValueError, TypeError) as error:
        log.warning(
            "%s cannot be vectorised (%s): its members run one by one",
            members.runs[0].model.name,
            str(error).splitlines()[0],
        )
        return None
    return packed


def looped(members: Members) -> Forward:
    """All members' forward pass, one after the other.

    The repetitions behind the recorded members are not computed: they get the last one's output.
    """
    one = _call(members.model)

    def loop(parameters: State, buffers: State, inputs: Tensor) -> Tensor:
        behind = len(members.runs) - members.recorded if len(inputs) == len(members.runs) else 0
        # unbind, because the gradient of an index is as large as the whole pack.
        own = zip(*(value.unbind() for value in parameters.values()), strict=True)
        outputs = []
        for place, values in zip(range(len(inputs) - behind), own, strict=False):
            moving = {name: value[place] for name, value in buffers.items()}
            outputs.append(one(dict(zip(parameters, values, strict=True)), moving, inputs[place]))
        return torch.stack(outputs + [outputs[-1].detach()] * behind)

    return loop


def _call(model: nn.Module) -> Forward:
    def call(parameters: State, buffers: State, inputs: Tensor) -> Tensor:
        return torch.func.functional_call(model, (dict(parameters), dict(buffers)), (inputs,))

    return call
