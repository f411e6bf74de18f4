"""Versions and processor: the facts of a machine that results may depend on."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping

import torch

import lossbench


def environment() -> dict[str, str | int]:
    """Versions and processor facts that results may depend on; no host or user names."""
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
    """`environment`, our own version and further facts as canonical JSON, for the records."""
    every = {**environment(), "lossbench": lossbench.__version__, **facts}
    return json.dumps(every, sort_keys=True)


def device_name(device: torch.device) -> str:
    """The device in words, as it stands in the records."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU ({torch.backends.cpu.get_cpu_capability()})"
