"""Estimates from records: pairs of runs, and differences between losses with their intervals.

Pure functions on plain frames; `Verdicts` reads the declaration of a sweep. Verdicts come only from
simultaneous paired intervals over the declared family; all other numbers only show how robust the
verdicts are. Diverged runs rank worst and are counted beside every mean over survivors.
"""

from lossbench.statistics.averages import completeness, cross_losses, divergence_rates, summary
from lossbench.statistics.choice import chosen, costs_alone, plausible, tuning_table
from lossbench.statistics.comparisons import Comparison
from lossbench.statistics.declared import declaration_of
from lossbench.statistics.decomposition import decomposition
from lossbench.statistics.design import FACTS, endpoint, factors, joined, placed
from lossbench.statistics.interactions import families, interactions
from lossbench.statistics.intervals import (
    Estimate,
    bootstrap_t,
    estimate,
    geometric_mean,
    mean_interval,
    resamples,
    share,
    t_interval,
)
from lossbench.statistics.levels import level_at, nominal_levels
from lossbench.statistics.margins import in_words
from lossbench.statistics.noise_curves import noise_curves
from lossbench.statistics.pairs import contrasted, paired
from lossbench.statistics.rule import Rule
from lossbench.statistics.sample_size import minimum_detectable_effect, pairs_for, spreads
from lossbench.statistics.trajectories import (
    converged,
    convergence,
    curves,
    signals,
    time_to,
    trajectories,
    with_losses_of_runs,
)
from lossbench.statistics.tuning import budget_curve, budgets, excess, learning_rates, sensitivity
from lossbench.statistics.verdict import is_open, seeds_needed, verdict
from lossbench.statistics.verdicts import Verdicts, corruption_curves, grouped
