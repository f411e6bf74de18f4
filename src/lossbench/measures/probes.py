"""Measurements of a logged step, for K members at once.

Every reduction goes over the last, contiguous dimension, because a reduction over the first
dimension rounds differently for different K, and records of a member must not depend on K.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa
import torch
from torch import Tensor

from lossbench.records import COLUMNS

STEP_COLUMNS, LAYER_COLUMNS = (
    [column.name for column in COLUMNS[table] if pa.types.is_float32(column.type)]
    for table in ("steps", "layers")
)
"""Columns of the tables `steps` and `layers` whose values the functions of these names compute."""

SATURATED = 0.01
"""Bound for p(1 - p): a prediction is saturated if all outputs are below the bound."""


def sums_of_squares(
    *,
    gradient: Mapping[str, Tensor],
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    spans: Sequence[slice],
) -> dict[str, Tensor]:
    """Sums of squares [3, K] by name of parameter, the input of `steps` and `layers`.

    The three rows are for the gradient of the mean loss, the parameters before the update, and
    their change. `spans` are slices of two or more members that are summed at once; together they
    cover all K.
    """
    parts: dict[str, list[Tensor]] = {name: [] for name in gradient}
    for span in spans:
        for name, sums in parts.items():
            old, new = before[name][span], after[name][span]
            three = gradient[name][span], old, new - old
            sums.append(torch.stack([_sum_of_squares(each) for each in three]))
    return {name: torch.cat(sums, -1) for name, sums in parts.items()}


def steps(
    *,
    loss: Tensor,
    prediction: Tensor,
    target: Tensor,
    output_gradient: Tensor,
    sums: Mapping[str, Tensor],
    is_probability: Tensor,
    has_error: Tensor,
) -> dict[str, Tensor]:
    """Compute one row of `steps` per member.

    Args:
        loss: The run's own loss per example, [K, B].
        prediction: [K, B, C].
        target: [K, B, C].
        output_gradient: d loss / d output per example, [K, B, W].
        sums: See `sums_of_squares`.
        is_probability: [K], whether the inverse link gives probabilities.
        has_error: [K], whether each of the first C outputs has an error, see `Loss`; else the norm
            of the output gradient is over all outputs, and the cosine with the error is NaN.

    Returns:
        Values [K] by column name.
    """
    gradient, before, update = _root(sums.values())
    error = prediction - target
    # Outputs after the first C, such as a variance, have no error to compare with.
    signal = output_gradient[..., : target.shape[-1]]
    p_variance = (prediction * (1.0 - prediction)).amax(-1)
    saturated = (p_variance < SATURATED).to(loss.dtype).mean(-1)
    return {
        "loss_value": loss.mean(-1),
        "gradient_norm": gradient,
        "output_gradient_norm": torch.where(has_error, rms(signal), rms(output_gradient)),
        "error_norm": rms(error),
        "cosine": torch.where(has_error, cosine(signal.flatten(1), error.flatten(1)), torch.nan),
        "saturated_share": torch.where(is_probability, saturated, torch.nan),
        "update_ratio": update / before,
    }


def layers(sums: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Compute one row of `layers` per member and layer: values [K] by column name, by layer."""
    rows = {}
    for layer, names in layer_names([*sums]).items():
        gradient, before, update = _root([sums[name] for name in names])
        rows[layer] = {
            "gradient_norm": gradient,
            "weight_norm": before,
            "update_ratio": update / before,
        }
    return rows


def layer_names(parameters: Sequence[str]) -> dict[str, list[str]]:
    """Group parameter names by the path of their module."""
    layers: dict[str, list[str]] = {}
    for name in parameters:
        layers.setdefault(name.rpartition(".")[0] or name, []).append(name)
    return layers


def norm(tensors: Iterable[Tensor]) -> Tensor:
    """L2 norm [K] over all entries of tensors [K, ...] of each member."""
    return _root([_sum_of_squares(tensor) for tensor in tensors])


def _sum_of_squares(tensor: Tensor) -> Tensor:
    return tensor.flatten(1).square().sum(-1)


def _root(sums: Iterable[Tensor]) -> Tensor:
    """L2 norms [..., K] from the sums of squares [..., K] of the parts."""
    return torch.stack([*sums], -1).sum(-1).sqrt()


def rms(vectors: Tensor) -> Tensor:
    """Root mean square over B of the L2 norm over C: [K, B, C] -> [K]."""
    return vectors.square().sum(-1).mean(-1).sqrt()


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of the angle between rows of two tensors [K, B C]; NaN if either row is zero."""
    # Scaled by the largest entry first: cubed errors in float32 would overflow when squared.
    first = first / first.abs().amax(-1, keepdim=True)
    second = second / second.abs().amax(-1, keepdim=True)
    lengths = first.square().sum(-1).sqrt() * second.square().sum(-1).sqrt()
    return (first * second).sum(-1) / lengths
