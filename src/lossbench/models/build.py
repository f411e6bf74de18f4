"""Initialisation and changes of models, and the stacking of models into a pack."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from lossbench.fingerprints import stream
from lossbench.models.layers import Dropout

DROPPED_UNITS = {
    "Dropout": "element",
    "Dropout1d": "channel",
    "Dropout2d": "channel",
    "Dropout3d": "channel",
    "StochasticDepth": "example",
}
"""Dropout layers of torch and torchvision, which use the global generator, and their units."""


def initialised(build: Callable[[], nn.Module], *, seed: int) -> nn.Module:
    """New model whose parameters depend only on the seed's init stream.

    The dropout masks depend on the seed's dropout stream, so that a model starts from the same
    parameters with and without dropout.
    """
    # Modules can draw only from torch's global generator while they are built. So that generator
    # gets the state of the init stream for the build, and its own state back afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(stream(seed, "init").get_state())
        model = build()
    return paired(model, seed=seed)


def paired(model: nn.Module, *, seed: int) -> nn.Module:
    """Model whose dropout layers are all `Dropout`, each with a key drawn from the seed.

    Args:
        model: Model to change in place; replaced if it is a dropout layer itself.
        seed: Block of the paired design; gives one key for each dropout layer, in order.

    Raises:
        ValueError: A layer of torchvision drops whole batches.
    """
    for name, layer in [*model.named_modules()]:
        package, kind = type(layer).__module__.partition(".")[0], type(layer).__name__
        if kind in DROPPED_UNITS and package in ("torch", "torchvision"):
            if getattr(layer, "mode", "row") != "row":
                raise ValueError(f"{layer} drops whole batches: use mode 'row'")
            p = float(layer.p)  # type: ignore[arg-type]
            dropout = Dropout(p, unit=DROPPED_UNITS[kind]) if p else nn.Identity()
            model = _with_submodule(model, name, dropout.train(layer.training))
    draw = stream(seed, "dropout")
    for layer in model.modules():
        if isinstance(layer, Dropout):
            layer.key.random_(generator=draw)
    return model


def _with_submodule(model: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """Model, changed in place, whose submodule of that name is `layer`; `layer` if name is ""."""
    if name == "":
        return layer
    model.set_submodule(name, layer)
    return model


def rescaled(model: nn.Module, *, output_scale: float) -> nn.Module:
    """Model, changed in place, with its last linear layer's parameters times `output_scale`.

    Raises:
        ValueError: The model has no linear layer, and `output_scale` is not 1.
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
    """Model, changed in place: its last linear layer gets `times` as many outputs, new ones zero.

    Raises:
        ValueError: The model has no linear layer, or the last one does not have C outputs.
    """
    if times == 1:
        return model
    linear = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    name, last = next(reversed(linear.items()), ("", None))
    if last is None or last.out_features != outputs:
        raise ValueError(
            f"a loss with {times} outputs per target needs a model that ends in a linear layer"
        )
    wide = torch.nn.utils.skip_init(
        nn.Linear, last.in_features, times * outputs, last.bias is not None, dtype=last.weight.dtype
    )
    with torch.no_grad():
        for new, old in zip(wide.parameters(), last.parameters(), strict=True):
            new.zero_()[:outputs].copy_(old)
    return _with_submodule(model, name, wide)


def hidden_matrices(model: nn.Module) -> frozenset[str]:
    """Names of the weights of all linear layers except the last, which makes the outputs."""
    linear = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    return frozenset(f"{name}.weight" for name in linear[:-1])


State = Mapping[str, Tensor]
"""Parameters or buffers by name."""


def called(model: nn.Module) -> Callable[[State, State, Tensor], Tensor]:
    """Forward pass of a model as a function of parameters and buffers, by name, and inputs.

    The outputs are [N, W]. For sequences, which have an output at each of T positions, the outputs
    are [N T, W]: from here on, every position counts as an example.
    """

    def call(parameters: State, buffers: State, inputs: Tensor) -> Tensor:
        state = dict(parameters), dict(buffers)
        return torch.func.functional_call(model, state, (inputs,)).flatten(0, -2)

    return call


def stacked(models: Sequence[nn.Module], places: Sequence[int]) -> dict[str, Tensor]:
    """Parameters and buffers [K, ...] of K members, which start from the models at `places`."""
    index = torch.as_tensor(places)
    states = [model.state_dict() for model in models]
    return {name: torch.stack([state[name] for state in states])[index] for name in states[0]}
