"""What members say beyond a prediction: distributions and quantiles, held against the targets."""

from __future__ import annotations

import torch
from torch import Tensor

from lossbench.engine.members import Members, guarded
from lossbench.measures import metrics
from lossbench.runs import Run


def uncertainty(members: Members, output: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Metrics of predicted distributions and quantiles by name, at each member's own parameters.

    Args:
        members: The pack.
        output: [K, N, W].
        target: [K, N, C].

    Returns:
        [K] each, NaN for members whose loss predicts nothing of that kind; metrics that no member
        has are left out.
    """
    found: dict[str, Tensor] = {}
    for span, run in members.spans:
        values = _of_loss(run, guarded(output, span), guarded(target, span))
        for name, value in values.items():
            empty = value.new_full((len(members.runs),), torch.nan)
            found.setdefault(name, empty)[span] = value[: span.stop - span.start]
    return found


def _of_loss(run: Run, output: Tensor, target: Tensor) -> dict[str, Tensor]:
    row, params = run.row, run.loss.params
    found = {}
    if row.distribution:
        found |= metrics.distribution(row.predicted(output, params), target)
    if row.quantile:
        level = {**row.defaults, **params}[row.quantile]
        found |= metrics.quantile(row.predict(output, params), target, level=level)
    return found
