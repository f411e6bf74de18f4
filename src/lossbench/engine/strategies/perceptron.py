"""Recognition of multilayer perceptrons, and derivatives of their activations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

_aten: Any = torch.ops.aten


@dataclass(frozen=True)
class Activation:
    """An elementwise function and its derivative.

    Attributes:
        result: `(module, argument, out)` writes the activation of the argument into `out`.
        backward: `(module, gradient, known, out)` takes the gradient in the result and writes the
            gradient in the argument into `out`; `gradient` and `out` may be the same tensor.
        is_of_argument: Whether `known` is the argument; else `known` is the result.
    """

    result: Callable[[Any, Tensor, Tensor], object]
    backward: Callable[[Any, Tensor, Tensor, Tensor], object]
    is_of_argument: bool = False


DERIVED: dict[type[nn.Module], Activation] = {
    nn.ReLU: Activation(
        lambda _, z, out: torch.clamp_min(z, 0, out=out),
        lambda _, d, h, out: _aten.threshold_backward.grad_input(d, h, 0, grad_input=out),
    ),
    nn.Tanh: Activation(
        lambda _, z, out: torch.tanh(z, out=out),
        lambda _, d, h, out: _aten.tanh_backward.grad_input(d, h, grad_input=out),
    ),
    nn.Sigmoid: Activation(
        lambda _, z, out: torch.sigmoid(z, out=out),
        lambda _, d, h, out: _aten.sigmoid_backward.grad_input(d, h, grad_input=out),
    ),
    nn.ELU: Activation(
        lambda elu, z, out: _aten.elu.out(z, elu.alpha, out=out),
        lambda elu, d, h, out: _aten.elu_backward.grad_input(
            d, elu.alpha, 1, 1, True, h, grad_input=out
        ),
    ),
    nn.GELU: Activation(
        lambda gelu, z, out: _aten.gelu.out(z, approximate=gelu.approximate, out=out),
        lambda gelu, d, z, out: _aten.gelu_backward.grad_input(
            d, z, approximate=gelu.approximate, grad_input=out
        ),
        is_of_argument=True,
    ),
    nn.SiLU: Activation(
        lambda _, z, out: _aten.silu.out(z, out=out),
        lambda _, d, z, out: _aten.silu_backward.grad_input(d, z, grad_input=out),
        is_of_argument=True,
    ),
}


@dataclass(frozen=True)
class Layer:
    """An affine map and the activation after the map.

    Attributes:
        weight: Name of the weight [K, out, in].
        bias: Name of the bias [K, out]; empty without a bias.
        inputs, outputs: Number of inputs and of outputs for one example.
        activation: Activation module; None without an activation.
    """

    weight: str
    bias: str
    inputs: int
    outputs: int
    activation: nn.Module | None = None


def layers_of(model: nn.Module) -> list[Layer] | None:
    """Layers of a multilayer perceptron; None for any other model.

    A multilayer perceptron is a sequence of affine maps, each with at most one activation of
    `DERIVED` after it, and optionally a flattening as first module. It has no other modules, no
    hooks, and no parameters or buffers except the weights and biases.
    """
    parts = [part for part in _modules("", model) if type(part[1]) is not nn.Identity]
    if parts and type(parts[0][1]) is nn.Flatten:
        flatten = parts.pop(0)[1]
        if (flatten.start_dim, flatten.end_dim) != (1, -1):
            return None
    layers: list[Layer] = []
    for path, part in parts:
        if _is_hooked(part):
            return None
        if type(part) is nn.Linear:
            bias = "" if part.bias is None else f"{path}bias"
            layers.append(Layer(f"{path}weight", bias, part.in_features, part.out_features))
        elif type(part) in DERIVED and layers and layers[-1].activation is None:
            layers[-1] = replace(layers[-1], activation=part)
        else:
            return None
    known = {name for layer in layers for name in (layer.weight, layer.bias) if name}
    return layers if layers and known == {*model.state_dict()} else None


def _modules(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules that a sequence calls, in order, with the prefix of their parameters' names."""
    if type(module) is not nn.Sequential or _is_hooked(module):
        yield path, module
        return
    for name, part in module._modules.items():  # `named_children` omits repeated modules
        assert part is not None
        yield from _modules(f"{path}{name}.", part)


def _is_hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_pre_hooks
        or module._forward_hooks
        or module._backward_pre_hooks
        or module._backward_hooks
    )
