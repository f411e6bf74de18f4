"""The rule by which losses are compared, fixed before their runs are seen."""

from __future__ import annotations

from dataclasses import dataclass

from lossbench.statistics.levels import level_at, look_of


@dataclass(frozen=True, kw_only=True)
class Rule:
    """The rule by which a candidate is chosen and a difference gets its verdict.

    Attributes:
        metric: Column to compare, on test; its direction is `records.direction(metric)`.
        reference: The loss that the others are compared with; empty if no reference is needed.
        select: Metric by whose values on validation a candidate is chosen, and which a column
            `selected_by` holds; if empty, `metric`.
        average: Summary of the seeds, in the choice and in the verdict: "mean" or "median".
        margin: Largest difference that does not matter, in units of the metric.
        confidence: Simultaneous coverage over the comparisons of a context and the looks.
        looks: Numbers of seeds at which verdicts may be read, ascending; if empty, there is one
            look at all seeds.
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
        """Index of the last look that a number of seeds reaches; 0 if it reaches no look."""
        return look_of(seeds, self.looks)

    def level(self, seeds: int, comparisons: int) -> float:
        """Confidence of one interval among `comparisons` at the look that `seeds` seeds reach."""
        return level_at(
            self.look(seeds), self.looks, confidence=self.confidence, comparisons=comparisons
        )
