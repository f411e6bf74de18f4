"""Models by name, their seeded initialisation, and the stacking of several into one pack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lossbench.pairing import stream

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "sigmoid": nn.Sigmoid,
}


@dataclass(frozen=True)
class Model:
    """A model's row: `fn(inputs, outputs, **params) -> nn.Module`, and its source."""

    fn: Callable[..., nn.Module]
    source: str

    @property
    def name(self) -> str:
        """The function's name."""
        return self.fn.__name__


def linear(inputs: int, outputs: int) -> nn.Module:
    """One affine map from F inputs to C outputs."""
    return nn.Sequential(nn.Linear(inputs, outputs))


def mlp(
    inputs: int, outputs: int, *, widths: Sequence[int] = (64, 64), activation: str = "relu"
) -> nn.Module:
    """A multilayer perceptron.

    Args:
        inputs: F.
        outputs: C.
        widths: Units of each hidden layer; an empty list gives `linear`.
        activation: One of `ACTIVATIONS`, after each hidden layer.

    Raises:
        ValueError: Unknown activation, or a width that is not positive.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r}: use one of {', '.join(ACTIVATIONS)}")
    if any(width < 1 for width in widths):
        raise ValueError(f"widths {list(widths)}: use positive numbers, like [64, 64]")
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(inputs, width), ACTIVATIONS[activation]()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


ROWS = (
    Model(linear, "affine map"),
    Model(mlp, "multilayer perceptron; torch's default initialisation"),
)

MODELS: dict[str, Model] = {row.name: row for row in ROWS}


def initialised(build: Callable[[], nn.Module], *, seed: int) -> nn.Module:
    """A freshly built model whose initial parameters depend on the seed's init stream only.

    Args:
        build: Makes the module.
        seed: Block of the paired design.
    """
    # Modules draw from torch's global generator while they are built and take no other: it is
    # lent the init stream's state for that moment and gets its own back.
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(stream(seed, "init").get_state())
        return build()


def rescaled(model: nn.Module, *, output_scale: float) -> nn.Module:
    """The model with the parameters of its last linear layer multiplied.

    Args:
        model: Changed in place.
        output_scale: The factor; 1 changes nothing.

    Raises:
        ValueError: The model has no linear layer to scale.
    """
    if output_scale == 1.0:
        return model
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ValueError("init.output_scale needs a linear layer: use 1 for this model")
    with torch.no_grad():
        for parameter in layers[-1].parameters():
            parameter.mul_(output_scale)
    return model


def widened(model: nn.Module, *, outputs: int, times: int) -> nn.Module:
    """A model whose last linear layer has `times` as many outputs; the new ones start at zero.

    Args:
        model: Changed in place, unless `times` is 1.
        outputs: C, what its last linear layer has now.
        times: Outputs per target.

    Raises:
        ValueError: The last linear layer does not make the output.
    """
    if times == 1:
        return model
    layers = [item for item in model.named_modules() if isinstance(item[1], nn.Linear)]
    name, last = layers[-1] if layers else ("", None)
    if not isinstance(last, nn.Linear) or last.out_features != outputs:
        raise ValueError(
            f"a loss with {times} outputs per target needs a model that ends in a linear layer"
        )
    wide = torch.nn.utils.skip_init(
        nn.Linear, last.in_features, times * outputs, last.bias is not None, dtype=last.weight.dtype
    )
    with torch.no_grad():
        for new, old in zip(wide.parameters(), last.parameters(), strict=True):
            new.zero_()[:outputs].copy_(old)
    if name == "":
        return wide
    model.set_submodule(name, wide)
    return model


def stacked(models: Sequence[nn.Module], places: Sequence[int]) -> dict[str, Tensor]:
    """Parameters and buffers of models, one leading pack dimension.

    Args:
        models: One model per seed.
        places: For each of the K members, which model it starts from.

    Returns:
        Tensor [K, ...] by parameter name.
    """
    index = torch.as_tensor(places)
    states = [model.state_dict() for model in models]
    return {name: torch.stack([state[name] for state in states])[index] for name in states[0]}
