"""Settings of a process while it trains: arithmetic of the device, memory of the C library."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lossbench.question import TF32

log = logging.getLogger(__name__)

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Numbers of two options in malloc.h of glibc."""

KEPT_BYTES = 2**30
"""Bytes of free memory that the process keeps."""

LARGEST_KEPT = 2**25
"""Bytes of the largest block that is kept when freed, which is the most that glibc allows."""


@contextmanager
def arithmetic(device: torch.device, precision: str) -> Iterator[None]:
    """Set the precision of products and deterministic kernels; restore the settings afterwards.

    By default torch lets convolutions round to TF32, which has 10 bits of mantissa. This rounding
    changes the results of steep losses such as the fourth power. On the CPU no setting is changed.
    """
    if device.type != "cuda":
        yield
        return
    # torch reads this variable at the first product
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    backends: Any = torch.backends
    filling: Any = torch.utils.deterministic
    matmul, conv, cudnn = backends.cuda.matmul, backends.cudnn.conv, backends.cudnn
    before = matmul.fp32_precision, conv.fp32_precision, cudnn.deterministic
    is_strict = torch.are_deterministic_algorithms_enabled()
    is_warning = torch.is_deterministic_algorithms_warn_only_enabled()
    is_filled = filling.fill_uninitialized_memory
    matmul.fp32_precision = conv.fp32_precision = "tf32" if precision == TF32 else "ieee"
    cudnn.deterministic = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    filling.fill_uninitialized_memory = False
    try:
        with warnings.catch_warnings():
            # Some functions that a loss may call do not have a deterministic kernel.
            warnings.filterwarnings("ignore", message=".*deterministic.*")
            yield
    finally:
        matmul.fp32_precision, conv.fp32_precision, cudnn.deterministic = before
        torch.use_deterministic_algorithms(is_strict, warn_only=is_warning)
        filling.fill_uninitialized_memory = is_filled


@functools.cache
def keep_freed_memory() -> None:
    """Keep freed memory in this process from now on; without glibc nothing changes.

    Each update allocates and frees blocks of the same sizes. By default glibc returns large blocks
    to the system each time, and the next use of a block costs a page fault for every 4 KiB: a
    quarter of the time of small models.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    if not (mallopt(MMAP_THRESHOLD, LARGEST_KEPT) and mallopt(TRIM_THRESHOLD, KEPT_BYTES)):
        log.debug("the C library goes on handing freed memory back")
