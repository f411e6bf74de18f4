"""Separation of the classes in the last hidden layer."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lossbench.measures.instruments.moment import Moment, nothing


def representation(moment: Moment) -> dict[str, Tensor]:
    """Ratio of feature scatter within classes to that between classes, and norm of the output.

    The ratio is tr(S_W) / tr(S_B) over the batch. S_W is the mean outer product of the difference
    between a feature and the mean of the feature's class; S_B is that of the difference between the
    class mean and the mean of all. The ratio is zero if every class is one point. Classes are those
    of the training targets, and only those in the batch.

    Source:
        Papyan, Han and Donoho 2020, PNAS, whose NC1 is tr(S_W pinv(S_B)) / C; the ratio of traces
        needs no inverse of a matrix that a batch does not determine.
    """
    norm = moment.output.square().sum(-1).sqrt().mean(-1)
    features = moment.features(moment.parameters) if moment.is_classification else None
    ratio = nothing(moment) if features is None else class_scatter(features, moment.target)
    return {"class_scatter": ratio, "output_norm": norm}


def class_scatter(features: Tensor, target: Tensor) -> Tensor:
    """Compute tr(S_W) / tr(S_B), [K], of features [K, B, D]; NaN if all features are equal."""
    member = functional.one_hot(target.argmax(-1), target.shape[-1]).to(features.dtype)
    counts = member.transpose(1, 2).contiguous().sum(-1)  # [K, C]
    sums = torch.bmm(member.transpose(1, 2), features)  # [K, C, D]
    means = torch.bmm(member, sums / counts.clamp(min=1.0)[..., None])  # [K, B, D]
    middle = features.transpose(1, 2).contiguous().mean(-1)[:, None]  # [K, 1, D]
    within = (features - means).square().flatten(1).sum(-1)
    return within / (means - middle).square().flatten(1).sum(-1)
