"""Curves of a loss for the figures: value, derivatives and weight, computed by autograd."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lossbench.losses.links import PLACED
from lossbench.losses.spec import NO_PARAMS, Loss

POINTS = 241
LARGEST_ERROR = 3.0


def curve(loss: Loss, params: Mapping[str, object] = NO_PARAMS) -> dict[str, list[float]]:
    """Value, derivatives and weight of a loss at points along its argument.

    For regression the argument is the error. If `is_of_error`, predictions go from -3 to 3 at
    target 0; otherwise outputs go from -3 to 3 at target 1. For classification the argument is the
    prediction for the true one of two classes. With q from 0.001 to 0.999, the outputs are
    (q, 1 - q) if the output is the prediction, otherwise (log q/(1 - q), 0).

    Returns:
        Columns argument, value, first and second (derivatives with respect to the output, of the
        true class in classification), weight = |output gradient| / |error| (NaN at zero error).
    """
    target = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(POINTS, 2)
    p = torch.linspace(0.001, 0.999, POINTS, dtype=torch.float64)
    if loss.task == "regression":
        place = torch.linspace(-LARGEST_ERROR, LARGEST_ERROR, POINTS, dtype=torch.float64)[:, None]
        target = torch.full_like(place, 0.0 if is_of_error(loss) else 1.0)
    elif loss.inverse_link == "identity":
        place = torch.stack([p, 1 - p], -1)
    else:
        place = torch.stack([p.logit(), torch.zeros_like(p)], -1)
    place = place.requires_grad_()
    output = loss.placed(place, params)
    value = loss.values(output, target, params)
    (slope,) = torch.autograd.grad(value.sum(), place, create_graph=True)
    second = torch.zeros_like(value)
    if slope.requires_grad:
        (bend,) = torch.autograd.grad(slope[:, 0].sum(), place, materialize_grads=True)
        # Not by arithmetic: for autograd's symbolic zeros torch imports its compiler, which takes
        # seconds.
        second.copy_(bend[:, 0])
    prediction = loss.predict(output.detach(), params)
    error, signal = prediction - target, slope.detach()
    weight = signal.norm(dim=-1) / error.norm(dim=-1)
    columns = {
        "argument": (error if loss.task == "regression" else prediction)[:, 0],
        "value": value.detach(),
        "first": signal[:, 0],
        "second": second.detach(),
        "weight": torch.where(error.norm(dim=-1) > 0, weight, torch.nan),
    }
    return {name: column.tolist() for name, column in columns.items()}


def is_of_error(loss: Loss) -> bool:
    """Whether the curve of a regression loss is drawn along the error at a target of 0."""
    return loss.inverse_link in ("identity", *PLACED)
