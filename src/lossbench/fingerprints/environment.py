"""Versions and processor facts of a machine on which results may depend."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping

import torch

import lossbench


def environment() -> dict[str, str | int]:
    """Versions and processor facts on which results may depend; no host or user names."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "mkl": os.environ.get("MKL_CBWR", ""),
    }


def environment_sha(device: str, precision: str) -> str:
    """Hex sha256 over `environment`, the device and the precision."""
    facts = sorted({**environment(), "device": device, "precision": precision}.items())
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def environment_json(facts: Mapping[str, str]) -> str:
    """Canonical JSON of `environment`, lossbench's version and further facts, for the records."""
    every = {**environment(), "lossbench": lossbench.__version__, **facts}
    return json.dumps(every, sort_keys=True)


def device_name(device: torch.device) -> str:
    """Name of the device, as written to the records."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU ({torch.backends.cpu.get_cpu_capability()})"
