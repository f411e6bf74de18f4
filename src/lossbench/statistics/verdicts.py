"""The comparisons of a sweep, computed context by context."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pandas as pd

from lossbench import records
from lossbench.statistics.comparisons import Comparison, main_of_context, slug
from lossbench.statistics.declared import declaration_of
from lossbench.statistics.design import placed
from lossbench.statistics.interactions import interactions
from lossbench.statistics.noise_curves import noise_curves
from lossbench.statistics.trajectories import signals


class Verdicts:
    """The comparisons of a sweep, as declared by the sweep; each is computed when it is first read.

    So figures of one context can be drawn before the next context is computed.

    Args:
        sweep: Records of the sweep.
        seeds: Number of declared seeds that count, from the first one on; 0 counts all runs.
    """

    def __init__(self, sweep: records.Records, *, seeds: int = 0) -> None:
        self.sweep = sweep
        self.declaration = declaration_of(sweep.plan)
        self._seeds = seeds
        self._done: list[Comparison] = []

    @classmethod
    def of(cls, sweep: Path | records.Records | Verdicts) -> Verdicts:
        """The verdicts of a folder or of records; verdicts are returned unchanged."""
        if isinstance(sweep, Verdicts):
            return sweep
        return cls(sweep if isinstance(sweep, records.Records) else records.load(sweep))

    @functools.cached_property
    def _open(self) -> deque[Callable[[], Comparison]]:
        """Functions that compute the comparisons of the contexts not computed yet, in order."""
        runs = placed(self.sweep.runs, tuned=self.declaration["tuned"])
        if self._seeds:
            runs = runs[runs.seed.isin(self.declaration["seeds"][: self._seeds])]
        labels = runs.drop_duplicates("context").set_index("context").label
        stems = labels.map(slug)
        is_ambiguous = stems.str.casefold().duplicated(keep=False) | (stems.str.len() > 60)
        stems = stems.mask(is_ambiguous, stems.str[:50] + "_" + stems.index)
        evals = self.sweep.measured.astype({"run_id": "category"})
        of_runs = pd.Series(evals.run_id.cat.categories).map(runs.set_index("run_id").context)
        context_of = of_runs.astype("category").array.take(evals.run_id.cat.codes)
        of_context = dict([*evals.groupby(context_of, observed=True)])
        groups = runs.sort_values("label", kind="stable").groupby("context", sort=False)
        return deque(
            functools.partial(
                main_of_context,
                rows,
                of_context.get(context, evals.iloc[:0]),
                self.sweep,
                stem=stems[context],
            )
            for context, rows in groups
        )

    def __iter__(self) -> Iterator[Comparison]:
        """The fair comparison of each context, each loss at its own learning rate."""
        for index in range(len(self._done) + len(self._open)):
            if index == len(self._done):
                self._done.append(self._open[0]())  # an error is raised again when read again
                self._open.popleft()
            yield self._done[index]

    def contexts(self) -> Iterator[list[Comparison]]:
        """The fair comparison of each context, and its `at_reference_rate` if that is not None."""
        for main in self:
            yield [main] if main.at_reference_rate is None else [main, main.at_reference_rate]

    @property
    def mains(self) -> list[Comparison]:
        """The fair comparisons of all contexts."""
        return [*self]

    @property
    def comparisons(self) -> list[Comparison]:
        """All comparisons, see `contexts`."""
        return [comparison for group in self.contexts() for comparison in group]

    def main(self, label: str = "") -> Comparison:
        """The fair comparison of the first context whose label contains a text.

        Raises:
            ValueError: No label contains the text; the message lists the labels.
        """
        for comparison in self:
            if label in comparison.label:
                return comparison
        labels = ", ".join(repr(comparison.label) for comparison in self) or "none at all"
        raise ValueError(f"no label of a context contains {label!r}: the sweep has {labels}")

    @functools.cached_property
    def changes(self) -> pd.DataFrame:
        """`statistics.interactions` that the sweep declares."""
        return interactions(self.mains, self.declaration)

    @functools.cached_property
    def signals(self) -> pd.DataFrame:
        """`statistics.signals` of all runs."""
        return signals(self.sweep)


def grouped(comparisons: Iterable[Comparison], *names: str) -> list[list[Comparison]]:
    """Group comparisons whose attributes are equal.

    Args:
        comparisons: Comparisons to group; each group keeps their order.
        names: Attributes, like "metric" and "reference", or "context".
    """
    groups: dict[tuple[object, ...], list[Comparison]] = {}
    for comparison in comparisons:
        key = tuple(getattr(comparison, name) for name in names)
        groups.setdefault(key, []).append(comparison)
    return [*groups.values()]


def corruption_curves(comparisons: Iterable[Comparison]) -> Iterator[pd.DataFrame]:
    """Estimates over the rates of a corruption, one frame per curve, see `noise_curves`."""
    for group in grouped(comparisons, "metric", "split", "condition"):
        first = group[0]
        rows = noise_curves(
            pd.concat([one.runs for one in group], ignore_index=True),
            metric=first.metric,
            tuned=first.declared.tuned,
            confidence=first.rule.confidence,
        )
        for _, curve in rows.groupby("curve"):
            if curve.value.notna().any():
                yield curve.reset_index(drop=True).assign(split=first.split)
