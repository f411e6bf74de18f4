"""Has the C library keep the memory that an update frees, for the next one."""

from __future__ import annotations

import ctypes
import functools
import logging

log = logging.getLogger(__name__)

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's malloc.h."""

KEPT_BYTES = 2**30
"""Free memory that stays with the process."""

LARGEST_KEPT = 2**25
"""Bytes of the largest piece that is taken from it: glibc allows no more."""


@functools.cache
def keep_freed_memory() -> None:
    """Keep freed memory in this process from now on; without glibc nothing changes.

    An update takes and frees the same pieces as the one before. By default glibc hands large ones
    back to the system each time, and their next use costs a page fault for every 4 KiB: a quarter
    of the time of small models.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    if not (mallopt(MMAP_THRESHOLD, LARGEST_KEPT) and mallopt(TRIM_THRESHOLD, KEPT_BYTES)):
        log.debug("the C library goes on handing freed memory back")
