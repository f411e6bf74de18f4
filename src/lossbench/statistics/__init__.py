"""From records to estimates: which runs are pairs, what differs between losses, and how surely.

Pure functions on plain frames; what takes a sweep reads its declaration. Verdicts come only from
simultaneous paired-t intervals over the declared family; whatever else stands beside them is for
robustness. Diverged runs rank worst and are counted beside every mean over survivors.
"""

from lossbench.statistics.across import iqm, mean_ranks, normalised, performance_profile
from lossbench.statistics.comparisons import (
    Comparison,
    all_comparisons,
    by_context,
    corruption_curves,
    declaration_of,
    declared_losses,
    main_comparison,
    main_comparisons,
    main_of,
    normalised_scores,
    selection_costs,
    times_to_target,
)
from lossbench.statistics.corruption import noise_curves
from lossbench.statistics.decomposition import DECOMPOSED, PARTS, decomposition
from lossbench.statistics.design import (
    CURES,
    FACTS,
    contexts,
    endpoint,
    factors,
    joined,
    placed,
    recorded,
    refuse_unequal,
    with_reference,
)
from lossbench.statistics.intervals import (
    FEWEST_PAIRS,
    Estimate,
    bootstrap_t,
    estimate,
    geometric_mean,
    holm,
    resamples,
    share,
    t_interval,
    two_level,
    wilcoxon,
)
from lossbench.statistics.objections import objections
from lossbench.statistics.oracle import SELECTED, selection_cost
from lossbench.statistics.outcomes import (
    completeness,
    cross_losses,
    divergence_rates,
    summary,
)
from lossbench.statistics.pairs import (
    CONTRASTED,
    PAIRED,
    contrasted,
    paired,
    spread_ratio,
)
from lossbench.statistics.power import Pairs, Resolvable, pairs_for, resolvable, spreads
from lossbench.statistics.sentences import VERDICTS, sentence, verdicts
from lossbench.statistics.trajectories import (
    converged,
    convergence,
    courses,
    curves,
    signals,
    time_to,
    with_losses_of_runs,
)
from lossbench.statistics.tuning import (
    at_best_rate,
    best,
    best_learning_rate,
    budget_curve,
    budgets,
    excess,
    learning_rates,
    profiled,
    sensitivity,
    stability,
)
