"""Which cases of a test are tried at every run, and which by CI only."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def beyond(quick: Collection[Any], cases: Iterable[Any]) -> list[Any]:
    """All cases; those not among the quick ones are marked `exhaustive`."""
    rest = [case for case in cases if case not in quick]
    return [*quick, *(pytest.param(*as_tuple(one), marks=pytest.mark.exhaustive) for one in rest)]


def as_tuple(case: Any) -> tuple[Any, ...]:
    return case if isinstance(case, tuple) else (case,)
