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

from lossbench.engine.batches import Batch
from lossbench.engine.bits import GUARD_ELEMENTS, pieces
from lossbench.engine.members import Members
from lossbench.engine.rows import Rows
from lossbench.engine.strategies.layers import DERIVED, Layer
from lossbench.engine.strategy import GradientOf, Named, Strategy

CACHE_BYTES = 2**21
"""What members computed at once may take: about a core's second cache."""

MOST_AT_ONCE = 16
"""Members computed at once, however small: from there on calls cost nothing."""

ROWS_AT_ONCE = 512
"""Examples computed at once where nothing is kept for a gradient."""


@dataclass(frozen=True)
class _Activations:
    """A layer of members computed at once: what its forward pass leaves for its backward pass.

    Attributes:
        argument: What comes out of the affine map, [k, B, out].
        result: What comes out of the activation; `argument` itself where that is no longer needed.
        argument_gradient: Room for the gradient of the loss in the argument.
    """

    argument: Tensor
    result: Tensor
    argument_gradient: Tensor


@dataclass(frozen=True)
class _Memory:
    """Everything between the inputs of a batch and its gradient.

    Attributes:
        chunks: Places of members computed at once, with their activations by layer.
        output: [K, B, W].
        gradient: As the parameters.
    """

    chunks: list[tuple[slice, list[_Activations]]]
    output: Tensor
    gradient: Rows


class Stack(Strategy):
    """See the module.

    Args:
        layers: Of the model that all members share.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = layers

    @property
    def name(self) -> str:
        """What is recorded of it."""
        return "stack"

    def arranged(self, parameters: Named) -> Rows:
        """A copy, all numbers of a member side by side."""
        return Rows(parameters)

    def parts(self, members: Members) -> list[slice]:
        """All of them together: their losses are, and that is a call each otherwise."""
        return [slice(0, len(members.runs))]

    def chunks(self, count: int, rows: int, like: Tensor) -> list[slice]:
        """Places of members computed and updated together, two at least.

        How many follows from shapes alone. They end on whole vectors, as `guards` demands, or are
        the whole pack. Elsewhere than on the CPU that is all of them: a launch costs, a cache does
        not hold them anyway.
        """
        if like.device.type != "cpu":
            return [slice(0, count)]
        activations = rows * (self._layers[0].inputs + sum(layer.outputs for layer in self._layers))
        weights = sum(layer.inputs * layer.outputs for layer in self._layers)
        size, taken = 2, (activations + weights) * like.element_size()
        while 2 * size * taken <= CACHE_BYTES and size < MOST_AT_ONCE:
            size *= 2
        curved = [rows * layer.outputs for layer in self._layers if layer.activation is not None]
        while any(size * numbers % GUARD_ELEMENTS for numbers in curved):
            size *= 2
        cuts = [*range(0, max(count - 1, 1), size), count]
        return [slice(start, stop) for start, stop in itertools.pairwise(cuts)]

    def memory(self, parameters: Named, rows: int) -> _Memory:
        """Memory for everything between the inputs of these members and their gradient."""
        assert isinstance(parameters, Rows), "a stack computes with what it has arranged"
        like, count = parameters.row, len(parameters.row)
        chunks = self.chunks(count, rows, like)
        most = max(chunk.stop - chunk.start for chunk in chunks)
        arguments = [like.new_empty(count, rows, layer.outputs) for layer in self._layers]
        results = [
            torch.empty_like(argument) if _keeps_argument(layer.activation) else argument
            for layer, argument in zip(self._layers, arguments, strict=True)
        ]
        gradients = [argument.new_empty(most, *argument.shape[1:]) for argument in arguments]
        activations = [
            [
                _Activations(argument[chunk], result[chunk], gradient[: chunk.stop - chunk.start])
                for argument, result, gradient in zip(arguments, results, gradients, strict=True)
            ]
            for chunk in chunks
        ]
        pairs = [*zip(chunks, activations, strict=True)]
        return _Memory(pairs, results[-1], Rows(parameters))

    def forward(self, parameters: Named, buffers: Named, inputs: Tensor) -> Tensor:
        """Outputs, see `Strategy.forward`."""
        inputs = inputs.flatten(2)
        if torch.is_grad_enabled():
            return self._forward(parameters, inputs)
        outputs = []
        for piece in pieces(inputs.shape[1], ROWS_AT_ONCE):
            rows = inputs[:, piece]
            parts = []
            for chunk in self.chunks(len(rows), rows.shape[1], rows):
                weights = {name: value[chunk] for name, value in parameters.items()}
                parts.append(self._forward(weights, rows[chunk]))
            outputs.append(torch.cat(parts))
        return torch.cat(outputs, 1)

    def _forward(self, parameters: Named, hidden: Tensor) -> Tensor:
        for layer in self._layers:
            hidden = affine(parameters, layer, hidden)
            hidden = hidden if layer.activation is None else layer.activation(hidden)
        return hidden

    def trained(
        self, parameters: Named, buffers: Named, batch: Batch, memory: _Memory
    ) -> tuple[Tensor, GradientOf]:
        """Outputs and gradients, see `Strategy.trained`."""
        assert isinstance(parameters, Rows), "a stack computes with what it has arranged"
        inputs = [batch.of(chunk).flatten(2) for chunk, _ in memory.chunks]
        for (chunk, activations), hidden in zip(memory.chunks, inputs, strict=True):
            weights = parameters.of(chunk)
            for layer, room in zip(self._layers, activations, strict=True):
                affine(weights, layer, hidden, out=room.argument)
                if layer.activation is not None:
                    activation = DERIVED[type(layer.activation)]
                    activation.result(layer.activation, room.argument, room.result)
                hidden = room.result

        def gradient_of(output_gradient: Tensor) -> dict[str, Tensor]:
            mean = output_gradient / output_gradient.shape[1]
            for (chunk, activations), first in zip(memory.chunks, inputs, strict=True):
                weights, gradient = parameters.of(chunk), memory.gradient.of(chunk)
                before = [first, *(room.result for room in activations)]
                behind = mean[chunk]
                for at in reversed(range(len(activations))):
                    layer = self._layers[at]
                    _through_activation(layer.activation, behind, activations[at])
                    _write_gradient(gradient, layer, behind, before[at])
                    if at:
                        room = activations[at - 1].argument_gradient
                        behind = torch.bmm(behind, weights[layer.weight], out=room)
            return memory.gradient

        return memory.output, gradient_of


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


def _through_activation(module: nn.Module | None, gradient: Tensor, room: _Activations) -> None:
    """From the gradient in an activation's result, in its place, to that in its argument."""
    if module is not None:
        activation = DERIVED[type(module)]
        known = room.argument if activation.is_of_argument else room.result
        activation.backward(module, gradient, known, gradient)


def _write_gradient(into: Named, layer: Layer, gradient: Tensor, inputs: Tensor) -> None:
    """Write a layer's gradient, from that in its affine map's result [k, B, out] and its inputs."""
    weight = into[layer.weight]
    if layer.outputs > layer.inputs:  # as `Rows` has it
        torch.bmm(inputs.mT, gradient, out=weight.mT)
    else:
        torch.bmm(gradient.mT, inputs, out=weight)
    if layer.bias:
        torch.sum(gradient, 1, out=into[layer.bias])


def _keeps_argument(module: nn.Module | None) -> bool:
    return module is not None and DERIVED[type(module)].is_of_argument
