"""The measurable statements about a loss, each a function `Loss -> Verdict` listed in `CLAIMS`.

Every measurement works in float64 on draws of its own seeded generator, so a verdict depends on
the loss alone. A test holds them to the rows both ways: what a row does not claim must fail.

Shapes: C targets and W outputs of them (2C of a loss with two outputs per target, else C), M
cases measured at once, K lines, N points of a target's distribution, S starts.
"""

from __future__ import annotations

from collections.abc import Callable

from lossbench.claims import gradients, invariance, learning, shape
from lossbench.claims.comparison import duplicates, efficiency, nearest
from lossbench.claims.minima import bayes_prediction
from lossbench.claims.verdict import Verdict
from lossbench.losses.spec import Loss

CLAIMS: dict[str, Callable[[Loss], Verdict]] = {
    claim.__name__: claim
    for claim in (
        gradients.gradient_is_derivative,
        gradients.gradient_is_error,
        gradients.points_along_error,
        gradients.local_weight,
        learning.minimised_at_target,
        gradients.linear_in_target,
        learning.elicits_mean,
        learning.strictly_proper,
        learning.calibrated,
        shape.convex,
        shape.smooth,
        shape.bounded_gradient,
        shape.vanishing_when_wrong,
        invariance.symmetric,
        learning.noise_tolerant,
        invariance.translation_invariant,
        invariance.permutation_invariant,
        shape.nonnegative,
    )
}


def measure(loss: Loss) -> dict[str, Verdict]:
    """Verdicts on every claim, by name, of a loss at the default parameters of its function."""
    return {name: claim(loss) for name, claim in CLAIMS.items()}
