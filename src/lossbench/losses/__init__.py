"""The catalog: `LOSSES` maps the name of every loss to its row."""

from lossbench.losses import matching, monotone, power, proper, robust
from lossbench.losses.spec import Loss

LOSSES: dict[str, Loss] = {
    loss.name: loss
    for family in (power, monotone, proper, matching, robust)
    for loss in family.ROWS
}

__all__ = ["LOSSES"]
