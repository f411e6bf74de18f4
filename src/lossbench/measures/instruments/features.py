"""Separation of the classes in the last hidden layer."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lossbench.measures.instruments.moment import Moment, nothing


def representation(moment: Moment) -> dict[str, Tensor]:
    """Scatter of features within classes over that between them, and the norm of the output.

    tr(S_W) / tr(S_B) over the batch, with S_W the mean outer product of a feature's distance to its
    class's mean, S_B that of the class mean's distance to the mean of all: zero when every class
    is one point. The classes are those that the loss is fed, and only those in the batch.

    Source:
        Papyan, Han and Donoho 2020, PNAS, whose NC1 is tr(S_W pinv(S_B)) / C; the ratio of traces
        needs no inverse of a matrix that a batch does not determine.
    """
    norm = moment.output.square().sum(-1).sqrt().mean(-1)
    features = moment.features(moment.parameters) if moment.is_classification else None
    ratio = nothing(moment) if features is None else class_scatter(features, moment.target)
    return {"class_scatter": ratio, "output_norm": norm}


def class_scatter(features: Tensor, target: Tensor) -> Tensor:
    """tr(S_W) / tr(S_B), [K].

    Args:
        features: [K, B, D].
        target: [K, B, C], its largest entry is the label.

    Returns:
        NaN where all examples are of one class and features are equal.
    """
    member = functional.one_hot(target.argmax(-1), target.shape[-1]).to(features.dtype)
    counts = member.transpose(1, 2).contiguous().sum(-1)  # [K, C]
    sums = torch.bmm(member.transpose(1, 2), features)  # [K, C, D]
    means = torch.bmm(member, sums / counts.clamp(min=1.0)[..., None])  # [K, B, D]
    middle = features.transpose(1, 2).contiguous().mean(-1)[:, None]  # [K, 1, D]
    within = (features - means).square().flatten(1).sum(-1)
    return within / (means - middle).square().flatten(1).sum(-1)
