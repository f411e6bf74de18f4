"""Claims: measurable statements about a loss, each a function `Loss -> Measurement` in `CLAIMS`.

Every measurement works in float64 on draws of its own seeded generator, so the result depends on
the loss alone. Tests measure all claims of every row: a claim that a row makes must hold, and a
claim that a row does not make must fail.

Shapes: C targets, W outputs (nC for a loss with n outputs per target), M cases measured at once, K
lines, N points of a target's distribution, S starts.
"""

from __future__ import annotations

from collections.abc import Callable

from lossbench.claims import learning, output_gradients, shape, symmetry
from lossbench.claims.measurement import Measurement
from lossbench.claims.minima import bayes_prediction
from lossbench.claims.similarity import duplicates, efficiency, nearest
from lossbench.losses.spec import Loss

CLAIMS: dict[str, Callable[[Loss], Measurement]] = {
    claim.__name__: claim
    for claim in (
        output_gradients.gradient_is_derivative,
        output_gradients.gradient_is_error,
        output_gradients.points_along_error,
        output_gradients.local_weight,
        learning.minimised_at_target,
        output_gradients.linear_in_target,
        learning.elicits_mean,
        learning.strictly_proper,
        learning.calibrated,
        shape.convex,
        shape.smooth,
        shape.bounded_gradient,
        shape.vanishing_when_wrong,
        symmetry.symmetric,
        learning.noise_tolerant,
        symmetry.translation_invariant,
        symmetry.permutation_invariant,
        shape.nonnegative,
    )
}


def measure(loss: Loss) -> dict[str, Measurement]:
    """Measurement of every claim, by name, of a loss at the default parameters of its function."""
    return {name: claim(loss) for name, claim in CLAIMS.items()}
