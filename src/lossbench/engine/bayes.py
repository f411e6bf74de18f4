"""What a loss aims at: the prediction of least expected loss, example by example (p*)."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lossbench.claims import bayes_prediction
from lossbench.losses.spec import Context
from lossbench.pairing import tensors_sha
from lossbench.runs import Run

MOST_POSTERIORS = 40
"""Distinct posteriors of a split that are solved: half a second for a loss on ten seeds."""

GUARDS = 64
"""Rows behind the last one, so that a row's bits do not depend on those solved with it."""

log = logging.getLogger(__name__)

MOST_REMEMBERED = 256
"""Solutions that packs of a sweep share: for each loss and seed one, the oldest go first."""

_remembered: dict[tuple[Any, ...], Tensor] = {}


def bayes_predictions(
    run: Run, posteriors: Sequence[Tensor], class_counts: Sequence[Tensor]
) -> list[Tensor]:
    """What the run's loss, with its parameters and its targets, has least expected value at.

    Fed sampled labels it is the expectation over labels drawn from the posterior; fed the
    distribution it is the loss against the posterior itself.

    Args:
        run: Whose loss; its seed does not matter.
        posteriors: For each of S seeds the true posterior of the split, [N, C].
        class_counts: For each of S seeds the training targets summed over examples, [C].

    Returns:
        For each seed the prediction, [N, C], float64. NaN for examples whose posterior is not
        among the first `MOST_POSTERIORS` distinct ones, and where the loss raises.
    """
    params = json.dumps(dict(run.loss.params), sort_keys=True)
    problems = []
    for posterior, counts in zip(posteriors, class_counts, strict=True):
        distinct, place = _distinct(posterior)
        tensors = {"posterior": distinct} | ({"counts": counts} if run.row.needs_context else {})
        key = (run.row, params, run.targets, tensors_sha(tensors))
        problems.append((key, distinct, counts.double(), place))
    new = {key: (rows, counts) for key, rows, counts, _ in problems if key not in _remembered}
    solutions = {key: _remembered[key] for key, *_ in problems if key in _remembered}
    if new:  # in one call
        counts = torch.cat([counts.expand(len(rows), -1) for rows, counts in new.values()])
        solved = _solve(run, torch.cat([rows for rows, _ in new.values()]), counts)
        parts = solved.split([len(rows) for rows, _ in new.values()])
        solutions |= zip(new, parts, strict=True)
    _remembered.update(solutions)
    for key in [*_remembered][:-MOST_REMEMBERED]:
        del _remembered[key]
    predictions = []
    for key, distinct, _, place in problems:
        left_out = torch.full((1, distinct.shape[-1]), torch.nan, dtype=torch.float64)
        solution = torch.cat([solutions[key], left_out])
        predictions.append(solution[place.clamp(max=len(distinct))])
    return predictions


def _distinct(posterior: Tensor) -> tuple[Tensor, Tensor]:
    """The first distinct rows [M, C], float64, and for each row [N] its place among all of them."""
    rows, place = posterior.unique(dim=0, return_inverse=True)
    first = torch.full((len(rows),), len(posterior)).scatter_reduce(
        0, place, torch.arange(len(posterior)), "amin"
    )
    order = first.argsort()
    rank = torch.empty_like(order).scatter(0, order, torch.arange(len(order)))
    first_rows = rows[order[:MOST_POSTERIORS]].double()
    return first_rows / first_rows.sum(-1, keepdim=True), rank[place]


def _solve(run: Run, posterior: Tensor, counts: Tensor) -> Tensor:
    """Bayes predictions [M, C] of posteriors [M, C] at class counts [M, C]."""
    posterior, counts = (
        torch.cat([rows, rows[-1:].expand(GUARDS, -1)]) for rows in (posterior, counts)
    )
    if run.targets == "distribution":
        targets, weights = posterior[:, None], torch.ones_like(posterior[:, :1])
    else:
        labels = torch.eye(posterior.shape[-1], dtype=torch.float64)
        targets, weights = labels.expand(len(posterior), -1, -1), posterior
    context = Context.outside_training(counts[:, None])
    try:
        loss = run.row.at(**run.loss.params).inside(context)
        return bayes_prediction(loss, targets=targets, weights=weights)[:-GUARDS]
    except Exception as error:
        log.warning("loss %s has no Bayes point (%s)", run.loss.name, error)
        return torch.full_like(posterior[:-GUARDS], torch.nan)
