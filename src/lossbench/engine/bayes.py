"""Bayes points: for each example, the prediction of least expected loss (p*)."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from lossbench.claims import bayes_prediction
from lossbench.fingerprints import tensors_sha
from lossbench.losses.spec import Context
from lossbench.question import Run
from lossbench.user_code import is_own, restoring_process_state

MOST_POSTERIORS = 40
"""Most distinct posteriors of a split that are solved: half a second for a loss on ten seeds."""

REACHING = ("softmax", "sigmoid", "identity")
"""Inverse links that can predict every distribution over any number of classes."""

GUARDS = 64
"""Rows added behind the last row, so that the bits of a row do not depend on other rows."""

MOST_SOLUTIONS = 256
"""Most solutions that are kept, one for each loss and seed; the oldest are dropped first."""

log = logging.getLogger(__name__)


class BayesPoints:
    """Bayes points of losses; each is solved once for all packs that share the object."""

    def __init__(self) -> None:
        self._solutions: dict[tuple[object, ...], Tensor] = {}

    def of(
        self, run: Run, posteriors: Sequence[Tensor], class_counts: Sequence[Tensor]
    ) -> list[Tensor]:
        """Predictions of least expected value of the run's loss, with its parameters and targets.

        If targets are sampled labels, the expectation is over labels drawn from the posterior; if
        targets are distributions, the value is the loss against the posterior itself. For each of S
        seeds, `posteriors` has the true posterior of the split, [N, C], and `class_counts` the
        training targets summed over examples, [C].

        Returns:
            Prediction for each seed, [N, C], float64. NaN for examples whose posterior is not among
            the first `MOST_POSTERIORS` distinct ones, and for all examples if the loss raises.
        """
        params = json.dumps(dict(run.loss.params), sort_keys=True)
        keys, places = [], []
        new: dict[tuple[object, ...], tuple[Tensor, Tensor]] = {}
        for posterior, counts in zip(posteriors, class_counts, strict=True):
            # Distinct rows in order of their first occurrence, and each row's index among them.
            rows, row = posterior.unique(dim=0, return_inverse=True)
            first = torch.full((len(rows),), len(posterior)).scatter_reduce(
                0, row, torch.arange(len(posterior)), "amin"
            )
            order = first.argsort()
            distinct, place = rows[order[:MOST_POSTERIORS]].double(), order.argsort()[row]
            distinct = distinct / distinct.sum(-1, keepdim=True)
            tensors = {"posterior": distinct}
            if run.row.needs_context:
                tensors["counts"] = counts
            keys.append((run.row, params, run.targets, tensors_sha(tensors)))
            places.append(place)
            if keys[-1] not in self._solutions:
                new[keys[-1]] = distinct, counts.double().expand(len(distinct), -1)
        solutions = {key: self._solutions[key] for key in keys if key in self._solutions}
        if new:  # all new ones in one call
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


def _solve(run: Run, posterior: Tensor, counts: Tensor) -> Tensor:
    """Bayes predictions [M, C] of posteriors [M, C] at class counts [M, C]."""
    # The catalog claims of some losses that their Bayes prediction is the posterior.
    claim = "strictly_proper" if run.targets == "sampled" else "minimised_at_target"
    is_measured = run.row.is_default(run.loss.params) and not is_own(run.row.fn)
    if is_measured and claim in run.row.claims and run.row.inverse_link in REACHING:
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
        log.warning(
            "loss %s: its Bayes prediction could not be computed, so tv_bayes is NaN (%s)",
            run.loss.name,
            error,
        )
        return torch.full_like(posterior[:-GUARDS], torch.nan)
