"""Catalog of losses as table, text, plain values and card, from rows, docstrings and claims.

No fact is written twice. Nothing is printed here: the command line prints.
"""

from lossbench.catalog.entry import CatalogError, Entry, entries
from lossbench.catalog.listing import (
    NORMAL_WIDTH,
    description,
    hanging,
    letters,
    marks,
    table,
    verdicts,
)
from lossbench.catalog.values import NO_ORACLE, facts, meaning, measured, requirements, variant
