"""What a test needs and may not find here: programs and published data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lossbench.data import DATA, Splits
from lossbench.data.files import Files, Missing

PROSE = Path(__file__).parent.parent / "docs" / "protocol.md"


def skip_without(what: str, reason: str) -> None:
    """Skip a test that needs a program; fail it where the environment promises the program.

    `LOSSBENCH_REQUIRE="browser"` is such a promise: CI makes it, so that it skips nothing there.
    """
    if what in os.environ.get("LOSSBENCH_REQUIRE", "").split():
        pytest.fail(reason)
    pytest.skip(reason)


def splits_of_set(name: str, *, seed: int = 0, **params: object) -> Splits:
    """Splits of a data set; skips the test by the set's name where its files are missing.

    What `text` reads is a page of our own docs.
    """
    if name == "text":
        params = {"path": str(PROSE), **params}
    try:
        return DATA[name].splits(seed, Files(), params)
    except Missing as missing:
        skip_without(name, str(missing))
        raise
