"""Which cases of a test are tried at every run, and which in CI only: those are `exhaustive`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest

from lossbench.losses.spec import Loss


def beyond(quick: Collection[Any], cases: Iterable[Any]) -> list[Any]:
    """The cases in their order, of which all but the quick ones are exhaustive."""
    cases = [*cases]
    return [one for one in quick if one not in cases] + [
        one if one in quick else pytest.param(*as_tuple(one), marks=pytest.mark.exhaustive)
        for one in cases
    ]


def as_tuple(case: Any) -> tuple[Any, ...]:
    return case if isinstance(case, tuple) else (case,)


def one_in(count: int, cases: Iterable[Any]) -> list[Any]:
    """All cases, of which every `count`-th is quick."""
    cases = [*cases]
    return beyond(cases[::count], cases)


def one_of_each_family(losses: Iterable[Loss]) -> list[Any]:
    """All losses, of which the first of each family is quick."""
    losses = [*losses]
    first = {loss.family: loss for loss in reversed(losses)}
    return beyond([loss for loss in losses if first[loss.family] is loss], losses)
