"""Examples of outputs and targets for every loss, and values of its parameters to try."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lossbench.losses.spec import Context, Loss

Params = Mapping[str, Any]


OTHER_VALUES: dict[str, dict[str, tuple[Any, ...]]] = {
    "lp": {"p": (1.0, 1.2, 4.0)},
    "rescaled_square": {"k": (1.0, 5.0), "M": (1.0, 10.0)},
    "huber": {"delta": (0.1, 3.7)},
    "smooth_l1": {"beta": (0.1, 3.7)},
    "pseudo_huber": {"delta": (0.1, 3.7)},
    "eps_insensitive": {"epsilon": (0.0, 0.8)},
    "barron": {"alpha": (2.0, 1.5, 0.0, 1e-9, -2.0), "c": (0.3, 3.0)},
    "cauchy": {"c": (0.3, 3.0)},
    "geman_mcclure": {"c": (0.3, 3.0)},
    "welsch": {"c": (0.3, 3.0)},
    "tukey": {"c": (0.7, 2.0)},
    "pinball": {"tau": (0.1, 0.5)},
    "expectile": {"tau": (0.1, 0.5)},
    "linex": {"a": (-1.5, 0.2)},
    "gaussian_nll": {"eps": (1e-3, 0.5)},
    "beta_nll": {"beta": (0.0, 1.0), "eps": (1e-3, 0.5)},
    "gaussian_crps": {"eps": (1e-3, 0.5)},
    "hl_gauss": {"low": (-1.0, -20.0), "high": (1.0, 20.0), "sigma": (0.3, 2.0)},
    "z_loss": {"c": (0.0, 0.1)},
    "softcap": {"cap": (5.0, 100.0)},
    "distillation": {"temperature": (1.0, 4.0)},
    "unlikelihood": {"alpha": (0.0, 0.5)},
    "jsd": {"beta": (0.5, 0.9)},
    "skew_kl": {"alpha": (0.5, 0.9)},
    "skew_reverse_kl": {"alpha": (0.5, 0.9)},
    "student_t": {"df": (1.0, 30.0), "scale": (0.3, 3.0)},
    "tsallis": {"q": (1.1, 2.0, 3.0)},
    "entmax": {"alpha": (1.05, 1.5, 1.9, 2.0)},
    "label_smoothing": {"epsilon": (0.0, 0.4)},
    "confidence_penalty": {"beta": (0.0, 0.7)},
    "logit_penalty": {"beta": (0.0, 0.5)},
    "logit_norm": {"tau": (0.5, 1.0)},
    "cosine_softmax": {"scale": (1.0, 5.0)},
    "gce": {"q": (0.1, 1.0)},
    "rce": {"log_zero": (-1.0, -9.21)},
    "sce": {"alpha": (0.0, 6.0), "beta": (0.1, 2.0), "log_zero": (-1.0, -9.21)},
    "nce_mae": {"alpha": (0.0, 10.0), "beta": (0.1, 10.0)},
    "nce_rce": {"alpha": (0.0, 10.0), "beta": (0.1, 10.0), "log_zero": (-1.0, -9.21)},
    "taylor_ce": {"t": (1, 6)},
    "phuber_ce": {"tau": (1.5, 100.0)},
    "bi_tempered": {"t1": (0.2, 1.0, 1.3), "t2": (0.5, 1.0, 2.0)},
    "reverse_kl": {"log_zero": (-1.0, -9.21)},
    "focal": {"gamma": (0.5, 1.0, 5.0)},
    "poly1": {"epsilon": (-1.0, 5.0)},
    "eaft": {"k": (2, 4)},
    "asl": {"gamma_pos": (1.0, 2.5), "gamma_neg": (0.0, 2.0), "eps": (0.0, 0.3)},
    "class_balanced": {"beta": (0.0, 0.99)},
    "ldam": {"max_m": (0.0, 2.0), "s": (1.0, 5.0)},
    "logit_adjusted": {"tau": (0.0, 2.0)},
}


def variants(loss: Loss) -> Iterator[Params]:
    """The loss's defaults, with one parameter at another value, then with all at once."""
    others = OTHER_VALUES.get(loss.name, {})
    yield {}
    for name, values in others.items():
        yield from ({name: value} for value in values)
    if len(others) > 1:
        yield {name: values[0] for name, values in others.items()}


def examples(
    loss: Loss, *shape: int, scale: float = 2.0, is_hard: bool = False, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Random output [..., C times its outputs per target] and target [..., C] for a shape."""
    generator = torch.Generator().manual_seed(seed)
    width = shape[-1] * loss.outputs_per_target
    output = scale * torch.randn((*shape[:-1], width), generator=generator, dtype=torch.float64)
    target = torch.randn(shape, generator=generator, dtype=torch.float64)
    if loss.task == "regression":
        return output, target.abs() if loss.domain == "nonnegative" else target
    hard = functional.one_hot(target.argmax(-1), shape[-1]).double()
    return output, hard if is_hard else target.softmax(-1)


def context_of(counts: list[float], *, like: Tensor) -> Context:
    return Context(torch.tensor(counts, dtype=like.dtype), rows=torch.tensor(-1))
