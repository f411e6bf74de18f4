"""The catalog: `LOSSES` maps the name of every loss to its row."""

from lossbench.losses import (
    asymmetric,
    divergence,
    likelihood,
    margin,
    matching,
    monotone,
    power,
    proper,
    redescending,
    regularized,
    robust,
    weighted,
)
from lossbench.losses.spec import Loss

LOSSES: dict[str, Loss] = {
    loss.name: loss
    for family in (
        *(power, monotone, redescending, asymmetric, likelihood),
        *(proper, matching, regularized, robust, divergence, weighted, margin),
    )
    for loss in family.ROWS
}
