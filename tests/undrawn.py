"""A report without its pictures, which take most of its time and have tests of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from lossbench.report import pictures


def without_pictures(folder, drawings, *, workers, losses):
    """Stands in for `pictures.draw_all`."""
    return [pictures.Picture(one.name, one.task, "", "", ()) for one in drawings]


@contextlib.contextmanager
def undrawn() -> Iterator[None]:
    """Reports written meanwhile are words and tables: no option of the command draws nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "draw_all", without_pictures)
        yield
