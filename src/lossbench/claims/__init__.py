"""The measurable statements about a loss, each a function `Loss -> Verdict` listed in `CLAIMS`.

Every measurement works in float64 on draws of its own seeded generator, so a verdict depends on
the loss alone. A test holds them to the rows both ways: what a row does not claim must fail.

Shapes: C targets and W outputs of them (2C of a loss with two outputs per target, else C), M
cases measured at once, K lines, N points of a target's distribution, S starts.
"""

from __future__ import annotations

from collections.abc import Callable

from lossbench.claims.comparison import duplicates, efficiency
from lossbench.claims.gradients import (
    gradient_is_derivative,
    gradient_is_error,
    linear_in_target,
    local_weight,
    points_along_error,
)
from lossbench.claims.invariance import permutation_invariant, symmetric, translation_invariant
from lossbench.claims.learning import (
    calibrated,
    elicits_mean,
    minimised_at_target,
    noise_tolerant,
    strictly_proper,
)
from lossbench.claims.minima import bayes_prediction
from lossbench.claims.shape import (
    bounded_gradient,
    convex,
    nonnegative,
    smooth,
    vanishing_when_wrong,
)
from lossbench.claims.verdict import Verdict
from lossbench.losses.spec import Loss

CLAIMS: dict[str, Callable[[Loss], Verdict]] = {
    claim.__name__: claim
    for claim in (
        gradient_is_derivative,
        gradient_is_error,
        points_along_error,
        local_weight,
        minimised_at_target,
        linear_in_target,
        elicits_mean,
        strictly_proper,
        calibrated,
        convex,
        smooth,
        bounded_gradient,
        vanishing_when_wrong,
        symmetric,
        noise_tolerant,
        translation_invariant,
        permutation_invariant,
        nonnegative,
    )
}


def measure(loss: Loss) -> dict[str, Verdict]:
    """Verdicts on every claim, by name, of a loss at the default parameters of its function."""
    return {name: claim(loss) for name, claim in CLAIMS.items()}


__all__ = [
    "CLAIMS",
    "Verdict",
    "bayes_prediction",
    "duplicates",
    "efficiency",
    "measure",
]
