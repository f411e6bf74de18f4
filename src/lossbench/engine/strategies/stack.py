"""Multilayer perceptrons as batched products, with their backward pass written by hand.

On the CPU neighbours are computed a span at a time, so that they stay in cache. That changes no
bit: in products of two members and more each has its own, and elementwise functions end on whole
vectors or guards.
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
"""Memory of members computed at once: about a core's second cache."""

MOST_AT_ONCE = 128
"""Members computed at once, however small they are."""

ROWS_AT_ONCE = 512
"""Examples computed at once where nothing is kept for a gradient."""


@dataclass(frozen=True)
class _Activations:
    """A layer of members computed at once: tensors that its backward pass needs.

    Attributes:
        argument: Result of the affine map, [k, B, out].
        result: Result of the activation; `argument` itself where that is no longer needed.
        argument_gradient: Memory for the gradient of the loss in the argument.
    """

    argument: Tensor
    result: Tensor
    argument_gradient: Tensor


@dataclass(frozen=True)
class _Memory:
    """Memory for all tensors between the inputs of a batch and its gradient.

    Attributes:
        spans: Places of members computed at once, with their activations by layer.
        output: [K, B, W].
        gradient: As the parameters.
    """

    spans: list[tuple[slice, list[_Activations]]]
    output: Tensor
    gradient: Rows


class Stack(Strategy):
    """Multilayer perceptrons as batched products.

    Args:
        layers: Of the model that all members share.
    """

    name = "stack"

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = layers

    def arranged(self, parameters: Named) -> Rows:
        """A copy, all numbers of a member side by side."""
        return Rows(parameters)

    def spans(self, count: int, rows: int, like: Tensor) -> list[slice]:
        """Members computed and updated together, two at least.

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
        spans = self.spans(count, rows, like)
        most = max(span.stop - span.start for span in spans)
        arguments = [like.new_empty(count, rows, layer.outputs) for layer in self._layers]
        results, gradients = [], []
        for layer, argument in zip(self._layers, arguments, strict=True):
            activation = None
            if layer.activation is not None:
                activation = DERIVED.get(type(layer.activation))
            is_argument_needed = activation is not None and activation.is_of_argument
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
                behind = mean[span]  # the gradient in a layer's result, then in its argument
                for at in reversed(range(len(self._layers))):
                    layer, module = self._layers[at], self._layers[at].activation
                    if module is not None:
                        activation, known = DERIVED[type(module)], activations[at].result
                        if activation.is_of_argument:
                            known = activations[at].argument
                        activation.backward(module, behind, known, behind)
                    weight = gradient[layer.weight]
                    if layer.outputs > layer.inputs:  # as `Rows` has it
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
