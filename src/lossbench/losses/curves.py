"""Each loss as a curve, for the figures: value, derivatives and weight, computed by autograd."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lossbench.losses.spec import Loss

POINTS = 241
LARGEST_ERROR = 3.0


def curve(loss: Loss, params: Mapping[str, Any]) -> dict[str, list[float]]:
    """One loss along its argument.

    For regression the argument is the error, from -3 to 3, at target 0. For classification it is
    the prediction p for the true one of two classes, between 0 and 1.

    Returns:
        Columns argument, value, first and second (derivatives with respect to the output, of the
        true class in classification), weight = |output gradient| / |error| (NaN at zero error).
    """
    argument, output, target = _points(loss)
    output = output.requires_grad_()
    value = loss.fn(output, target, **params)
    (slope,) = torch.autograd.grad(value.sum(), output, create_graph=True)
    second = torch.zeros_like(value)
    if slope.requires_grad:
        (bend,) = torch.autograd.grad(slope[:, 0].sum(), output, allow_unused=True)
        second = second if bend is None else second + bend[:, 0]
    error = loss.predict(output.detach()) - target
    weight = slope.detach().norm(dim=-1) / error.norm(dim=-1)
    columns = {
        "argument": argument,
        "value": value.detach(),
        "first": slope.detach()[:, 0],
        "second": second.detach(),
        "weight": torch.where(error.norm(dim=-1) > 0, weight, torch.nan),
    }
    return {name: column.tolist() for name, column in columns.items()}


def _points(loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
    if loss.task == "regression":
        error = torch.linspace(-LARGEST_ERROR, LARGEST_ERROR, POINTS, dtype=torch.float64)
        return error, error[:, None].clone(), torch.zeros(POINTS, 1, dtype=torch.float64)
    p = torch.linspace(0.001, 0.999, POINTS, dtype=torch.float64)
    target = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(POINTS, 2)
    if loss.inverse_link == "softmax":
        return p, torch.stack([p.log() - (-p).log1p(), torch.zeros_like(p)], -1), target
    return p, torch.stack([p, 1 - p], -1), target
