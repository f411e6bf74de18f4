"""Multilayer perceptrons as batched products, with their backward pass written by hand.

On the CPU members are computed some at once, so that they stay in cache. That changes no bit: in
products of two members and more each has its own, and elementwise functions end on whole vectors or
guards.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lossbench.engine.members import GUARD_ELEMENTS, Batch, Members, pieces
from lossbench.engine.strategies.layers import DERIVED, Layer
from lossbench.engine.strategies.rows import Rows
from lossbench.engine.strategies.spec import Named, Strategy

CACHE_BYTES = 2**21
"""What members computed at once may take: about a core's second cache."""

MOST_AT_ONCE = 16
"""Members computed at once, however small: from there on calls cost nothing."""

ROWS_AT_ONCE = 512
"""Examples computed at once where nothing is kept for a gradient."""


@dataclass(frozen=True)
class _Place:
    """A layer of members computed at once: what its forward pass leaves for its backward pass.

    Attributes:
        argument: What comes out of the affine map, [k, B, out].
        result: What comes out of the activation; `argument` itself where that is no longer needed.
        slope: Room for the slope of the argument.
    """

    argument: Tensor
    result: Tensor
    slope: Tensor


class Stack(Strategy):
    """See the module.

    Args:
        layers: Of the model that all members share.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = layers
        self._parameters: Rows | None = None
        self._inputs: list[Tensor] = []
        self._output = torch.empty(0)
        self._gradient: Rows | None = None
        self._parts: list[tuple[slice, list[_Place]]] = []

    @property
    def name(self) -> str:
        """What is recorded of it."""
        return "stack"

    def arranged(self, parameters: Named) -> Rows:
        """A copy, all numbers of a member side by side."""
        return Rows(parameters)

    def apart(self, members: Members) -> list[slice]:
        """None: their losses are computed together, and that is a call each otherwise."""
        return [slice(0, len(members.runs))]

    def at_once(self, count: int, inputs: Tensor) -> list[slice]:
        """Places of members computed and updated together, two at least.

        How many follows from shapes alone. They end on whole vectors, as `guards` demands, or are
        the whole pack. Elsewhere than on the CPU that is all of them: a launch costs, a cache does
        not hold them anyway.
        """
        if inputs.device.type != "cpu":
            return [slice(0, count)]
        rows = inputs.shape[1]
        kept = rows * (self._layers[0].inputs + sum(layer.outputs for layer in self._layers))
        weights = sum(layer.inputs * layer.outputs for layer in self._layers)
        size, taken = 2, (kept + weights) * inputs.element_size()
        while 2 * size * taken <= CACHE_BYTES and size < MOST_AT_ONCE:
            size *= 2
        curved = [rows * layer.outputs for layer in self._layers if layer.activation is not None]
        while any(size * numbers % GUARD_ELEMENTS for numbers in curved):
            size *= 2
        cuts = [*range(0, max(count - 1, 1), size), count]
        return [slice(start, stop) for start, stop in itertools.pairwise(cuts)]

    def forward(self, parameters: Named, buffers: Named, inputs: Tensor) -> Tensor:
        """Outputs, see `Strategy.forward`."""
        inputs = inputs.flatten(2)
        if torch.is_grad_enabled():
            return self._forward(parameters, inputs)
        outputs = []
        for piece in pieces(inputs.shape[1], ROWS_AT_ONCE):
            rows = inputs[:, piece]
            chunks = self.at_once(len(rows), rows)
            some = [self._forward(_some(parameters, own), rows[own]) for own in chunks]
            outputs.append(torch.cat(some))
        return torch.cat(outputs, 1)

    def _forward(self, parameters: Named, hidden: Tensor) -> Tensor:
        for layer in self._layers:
            hidden = affine(parameters, layer, hidden)
            hidden = hidden if layer.activation is None else layer.activation(hidden)
        return hidden

    def output(self, parameters: Named, buffers: Named, batch: Batch) -> Tensor:
        """Outputs of a batch, see `Strategy.output`."""
        assert isinstance(parameters, Rows), "a stack computes with what it has arranged"
        if (len(batch.order), batch.inputs.shape[1]) != self._output.shape[:2]:
            self._make_room(parameters, len(batch.order), batch.inputs)
        self._parameters = parameters
        self._inputs = [batch.some(own).flatten(2) for own, _ in self._parts]
        for (own, places), hidden in zip(self._parts, self._inputs, strict=True):
            mine = parameters.some(own)
            for layer, place in zip(self._layers, places, strict=True):
                affine(mine, layer, hidden, out=place.argument)
                if layer.activation is not None:
                    activation = DERIVED[type(layer.activation)]
                    activation.result(layer.activation, place.argument, place.result)
                hidden = place.result
        return self._output

    def gradient(self, output_gradient: Tensor) -> dict[str, Tensor]:
        """Gradient of the mean loss, see `Strategy.gradient`."""
        assert self._parameters is not None
        assert self._gradient is not None
        mean = output_gradient / output_gradient.shape[1]
        for (own, places), inputs in zip(self._parts, self._inputs, strict=True):
            behind, mine = mean[own], self._parameters.some(own)
            gradient = self._gradient.some(own)
            before = [inputs, *(place.result for place in places)]
            for at in reversed(range(len(places))):
                layer = self._layers[at]
                _through(layer.activation, behind, places[at])
                _into(gradient, layer, behind, before[at])
                if at:
                    behind = torch.bmm(behind, mine[layer.weight], out=places[at - 1].slope)
        return self._gradient

    def _make_room(self, parameters: Rows, count: int, inputs: Tensor) -> None:
        """Memory for everything between the inputs of so many members and their gradient."""
        batch, chunks = inputs.shape[1], self.at_once(count, inputs)
        most = max(own.stop - own.start for own in chunks)
        arguments = [inputs.new_empty(count, batch, layer.outputs) for layer in self._layers]
        results = [
            torch.empty_like(argument) if _keeps_argument(layer.activation) else argument
            for layer, argument in zip(self._layers, arguments, strict=True)
        ]
        slopes = [argument.new_empty(most, *argument.shape[1:]) for argument in arguments]
        self._parts = [
            (
                own,
                [
                    _Place(argument[own], result[own], slope[: own.stop - own.start])
                    for argument, result, slope in zip(arguments, results, slopes, strict=True)
                ],
            )
            for own in chunks
        ]
        self._output, self._gradient = results[-1], Rows(parameters)


def affine(parameters: Named, layer: Layer, inputs: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Weight times inputs plus bias, [K, N, out].

    Args:
        parameters: By name, [K, ...].
        layer: Which of them.
        inputs: [K, N, in].
        out: Where to write.
    """
    weight = parameters[layer.weight].mT
    if not layer.bias:
        return torch.bmm(inputs, weight, out=out)
    return torch.baddbmm(parameters[layer.bias][:, None], inputs, weight, out=out)


def _through(module: nn.Module | None, slope: Tensor, place: _Place) -> None:
    """From the slope of an activation's result, in its place, to that of its argument."""
    if module is not None:
        activation = DERIVED[type(module)]
        known = place.argument if activation.is_of_argument else place.result
        activation.slope(module, slope, known, slope)


def _into(gradient: Named, layer: Layer, slope: Tensor, inputs: Tensor) -> None:
    """Write a layer's gradient: of the slope of its affine map, [k, B, out], and its inputs."""
    weight = gradient[layer.weight]
    if layer.outputs > layer.inputs:  # as `Rows` has it
        torch.bmm(inputs.mT, slope, out=weight.mT)
    else:
        torch.bmm(slope.mT, inputs, out=weight)
    if layer.bias:
        torch.sum(slope, 1, out=gradient[layer.bias])


def _keeps_argument(module: nn.Module | None) -> bool:
    return module is not None and DERIVED[type(module)].is_of_argument


def _some(parameters: Named, own: slice) -> dict[str, Tensor]:
    return {name: value[own] for name, value in parameters.items()}
