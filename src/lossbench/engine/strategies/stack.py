"""Multilayer perceptrons as batched matrix products, with a backward pass written by hand.

On the CPU adjacent members are computed in spans, so that tensors stay in cache. The spans do not
change a bit of the results: in a batched product of two or more members each member is rounded
separately, and elementwise functions end on whole SIMD vectors or guards.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lossbench.engine.batches import Batch
from lossbench.engine.memory_layout import GUARD_ELEMENTS, Rows, row_chunks
from lossbench.engine.strategies.perceptron import DERIVED, Layer
from lossbench.engine.strategy import GradientOf, Named, Strategy

CACHE_BYTES = 2**21
"""Memory of members computed at once, in bytes: about the second-level cache of a core."""

MOST_AT_ONCE = 128
"""Largest number of members computed at once, unless whole vectors require more."""

ROWS_AT_ONCE = 512
"""Number of examples computed at once if no gradient is needed."""


@dataclass(frozen=True)
class _Activations:
    """Tensors that the backward pass of a layer needs, for members computed at once.

    Attributes:
        argument: Result of the affine map, [k, B, out].
        result: Result of the activation; the same tensor as `argument` if the backward pass does
            not need the argument.
        argument_gradient: Memory for the gradient of the loss with respect to the argument.
    """

    argument: Tensor
    result: Tensor
    argument_gradient: Tensor


@dataclass(frozen=True)
class _Memory:
    """Memory for all tensors between the inputs of a batch and its gradient.

    Attributes:
        spans: Slices of members computed at once, with the members' activations by layer.
        output: [K, B, W].
        gradient: Gradient by name, in the layout of the parameters.
    """

    spans: list[tuple[slice, list[_Activations]]]
    output: Tensor
    gradient: Rows


class Stack(Strategy):
    """Strategy for multilayer perceptrons: batched matrix products."""

    name = "stack"

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = layers

    def arranged(self, parameters: Named) -> Rows:
        """Copy the parameters, with all numbers of a member adjacent in memory."""
        return Rows(parameters)

    def spans(self, count: int, rows: int, like: Tensor) -> list[slice]:
        """Slices of two or more members that are computed and updated together.

        The size of a slice depends on shapes only. Each slice ends on whole SIMD vectors, as
        `guards` requires, or at the end of the pack. On a GPU one slice has all members, because
        each kernel launch costs time, and the cache is too small for members anyway.
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
        """Allocate memory for all tensors between the inputs of these members and the gradient."""
        assert isinstance(parameters, Rows), "a stack computes with what it has arranged"
        like, count = parameters.row, len(parameters.row)
        spans = self.spans(count, rows, like)
        most = max(span.stop - span.start for span in spans)
        arguments = [like.new_empty(count, rows, layer.outputs) for layer in self._layers]
        results, gradients = [], []
        for layer, argument in zip(self._layers, arguments, strict=True):
            module = layer.activation
            is_argument_needed = module is not None and DERIVED[type(module)].is_of_argument
            results.append(torch.empty_like(argument) if is_argument_needed else argument)
            gradients.append(argument.new_empty(most, *argument.shape[1:]))
        layers = [*zip(arguments, results, gradients, strict=True)]
        activations = [
            [_Activations(z[span], h[span], d[: span.stop - span.start]) for z, h, d in layers]
            for span in spans
        ]
        pairs = [*zip(spans, activations, strict=True)]
        return _Memory(pairs, results[-1], Rows(parameters))

    def forward(self, parameters: Named, buffers: Named, inputs: Tensor) -> Tensor:
        """Outputs, see `Strategy.forward`."""
        inputs = inputs.flatten(2)
        if torch.is_grad_enabled():
            return self._forward(parameters, inputs)
        outputs = []
        for chunk in row_chunks(inputs.shape[1], ROWS_AT_ONCE):
            rows = inputs[:, chunk]
            of_spans = []
            for span in self.spans(len(rows), rows.shape[1], rows):
                weights = {name: value[span] for name, value in parameters.items()}
                of_spans.append(self._forward(weights, rows[span]))
            outputs.append(torch.cat(of_spans))
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
        inputs = [batch.of(span).flatten(2) for span, _ in memory.spans]
        for (span, activations), hidden in zip(memory.spans, inputs, strict=True):
            weights = parameters.of(span)
            for layer, memory_of_layer in zip(self._layers, activations, strict=True):
                argument, result = memory_of_layer.argument, memory_of_layer.result
                affine(weights, layer, hidden, out=argument)
                if layer.activation is not None:
                    DERIVED[type(layer.activation)].result(layer.activation, argument, result)
                hidden = result

        def gradient_of(output_gradient: Tensor) -> dict[str, Tensor]:
            mean = output_gradient / output_gradient.shape[1]
            for (span, activations), first in zip(memory.spans, inputs, strict=True):
                weights, gradient = parameters.of(span), memory.gradient.of(span)
                before = [first, *(layer.result for layer in activations)]
                behind = mean[span]  # gradient in a layer's result, overwritten by that in argument
                for at in reversed(range(len(self._layers))):
                    layer, module = self._layers[at], self._layers[at].activation
                    if module is not None:
                        activation, known = DERIVED[type(module)], activations[at].result
                        if activation.is_of_argument:
                            known = activations[at].argument
                        activation.backward(module, behind, known, behind)
                    weight = gradient[layer.weight]
                    if layer.outputs > layer.inputs:  # then `Rows` stores the weight transposed
                        torch.bmm(before[at].mT, behind, out=weight.mT)
                    else:
                        torch.bmm(behind.mT, before[at], out=weight)
                    if layer.bias:
                        torch.sum(behind, 1, out=gradient[layer.bias])
                    if at:
                        memory_in_front = activations[at - 1].argument_gradient
                        behind = torch.bmm(behind, weights[layer.weight], out=memory_in_front)
            return memory.gradient

        return memory.output, gradient_of


def affine(parameters: Named, layer: Layer, inputs: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Compute a layer's weight times inputs [K, N, in] plus bias, [K, N, out]."""
    weight = parameters[layer.weight].mT
    if not layer.bias:
        return torch.bmm(inputs, weight, out=out)
    return torch.baddbmm(parameters[layer.bias][:, None], inputs, weight, out=out)
