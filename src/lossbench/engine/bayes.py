"""Bayes points: the prediction of least expected loss, example by example (p*)."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lossbench.claims import bayes_prediction
from lossbench.fingerprints import tensors_sha
from lossbench.losses.spec import Context
from lossbench.question import Run
from lossbench.user_code import is_own, restoring_process_state

MOST_POSTERIORS = 40
"""Distinct posteriors of a split that are solved: half a second for a loss on ten seeds."""

REACHING = ("softmax", "sigmoid", "identity")
"""Inverse links that reach every distribution, however many classes there are."""

GUARDS = 64
"""Rows behind the last one, so that a row's bits do not depend on those solved with it."""

MOST_SOLUTIONS = 256
"""Solutions that packs of a sweep share: for each loss and seed one, the oldest go first."""

log = logging.getLogger(__name__)


class BayesPoints:
    """Bayes points of losses; each is solved once for all packs that share the object."""

    def __init__(self) -> None:
        self._solutions: dict[tuple[Any, ...], Tensor] = {}

    def of(
        self, run: Run, posteriors: Sequence[Tensor], class_counts: Sequence[Tensor]
    ) -> list[Tensor]:
        """Predictions of least expected value of the run's loss, with its parameters and targets.

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
        keys, places = [], []
        new: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}
        for posterior, counts in zip(posteriors, class_counts, strict=True):
            distinct, place = _distinct(posterior)
            tensors = {"posterior": distinct}
            if run.row.needs_context:
                tensors["counts"] = counts
            keys.append((run.row, params, run.targets, tensors_sha(tensors)))
            places.append(place)
            if keys[-1] not in self._solutions:
                new[keys[-1]] = distinct, counts.double().expand(len(distinct), -1)
        solutions = {key: self._solutions[key] for key in keys if key in self._solutions}
        if new:  # in one call
            rows, counts = (torch.cat(tensors) for tensors in zip(*new.values(), strict=True))
            lengths = [len(distinct) for distinct, _ in new.values()]
            solutions |= zip(new, _solve(run, rows, counts).split(lengths), strict=True)
        self._solutions |= solutions
        for key in [*self._solutions][:-MOST_SOLUTIONS]:
            del self._solutions[key]
        predictions = []
        for key, place in zip(keys, places, strict=True):
            left_out = torch.full((1, solutions[key].shape[-1]), torch.nan, dtype=torch.float64)
            rows = torch.cat([solutions[key], left_out])
            predictions.append(rows[place.clamp(max=len(rows) - 1)])
        return predictions


def _distinct(posterior: Tensor) -> tuple[Tensor, Tensor]:
    """The first distinct rows [M, C], float64, and for each row [N] its place among all of them."""
    rows, place = posterior.unique(dim=0, return_inverse=True)
    first = torch.full((len(rows),), len(posterior)).scatter_reduce(
        0, place, torch.arange(len(posterior)), "amin"
    )
    order = first.argsort()
    first_rows = rows[order[:MOST_POSTERIORS]].double()
    return first_rows / first_rows.sum(-1, keepdim=True), order.argsort()[place]


def _solve(run: Run, posterior: Tensor, counts: Tensor) -> Tensor:
    """Bayes predictions [M, C] of posteriors [M, C] at class counts [M, C]."""
    if _is_posterior(run):
        return posterior
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
        with restoring_process_state(f"loss {run.loss.name}", run.row.fn):
            return bayes_prediction(loss, targets=targets, weights=weights)[:-GUARDS]
    except Exception as error:
        log.warning("loss %s has no Bayes point (%s)", run.loss.name, error)
        return torch.full_like(posterior[:-GUARDS], torch.nan)


def _is_posterior(run: Run) -> bool:
    """Whether the loss of the catalog claims, as it is used here, to aim at the posterior."""
    claim = "strictly_proper" if run.targets == "sampled" else "minimised_at_target"
    is_measured = run.row.is_default(run.loss.params) and not is_own(run.row.fn)
    return is_measured and claim in run.row.claims and run.row.inverse_link in REACHING
