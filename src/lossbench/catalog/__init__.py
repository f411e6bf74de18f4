"""The catalog as table, text, plain values and card, from rows, docstrings and claims.

Nothing is written twice, and nothing is printed: the command line does that.
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
