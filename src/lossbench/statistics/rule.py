"""The rule by which losses are compared, fixed before their runs are seen."""

from __future__ import annotations

from dataclasses import dataclass

from lossbench.statistics.levels import level_at, look_of


@dataclass(frozen=True, kw_only=True)
class Rule:
    """The choice of a candidate, and the verdict on a difference.

    Attributes:
        metric: Column to compare, on test; its direction is `records.direction(metric)`.
        reference: The loss that the others are compared with; empty where none is needed.
        select: Metric that chooses among candidates, on validation: the one that a column
            `selected_by` holds. Empty takes `metric`.
        average: Summary of the seeds, in the choice and in the verdict: "mean" or "median".
        margin: Largest difference that does not matter, in units of the metric.
        confidence: Simultaneous coverage over the comparisons of a context and the looks.
        looks: Numbers of seeds at which verdicts may be read, ascending; none has one look, at
            all seeds.
    """

    metric: str
    reference: str = ""
    select: str = ""
    average: str = "mean"
    margin: float = 0.0
    confidence: float = 0.95
    looks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "select", self.select or self.metric)

    def look(self, seeds: int) -> int:
        """Index of the last look that so many seeds reach; 0 where they reach none."""
        return look_of(seeds, self.looks)

    def level(self, seeds: int, comparisons: int) -> float:
        """Confidence of one of so many intervals at the look that so many seeds reach."""
        return level_at(
            self.look(seeds), self.looks, confidence=self.confidence, comparisons=comparisons
        )
