"""Runs as plain values: what one is, its checks and identity, and which of them train together."""

from lossbench.runs.checks import checked, fits, varied, with_values
from lossbench.runs.errors import ConfigError, nearest
from lossbench.runs.identity import ENGINE_SCHEMA, refuse_other_code, run_id
from lossbench.runs.run import Init, Part, Run
from lossbench.runs.settings import PRECISIONS, TF32, Engine

__all__ = [
    "ENGINE_SCHEMA",
    "PRECISIONS",
    "TF32",
    "ConfigError",
    "Engine",
    "Init",
    "Part",
    "Run",
    "checked",
    "fits",
    "nearest",
    "refuse_other_code",
    "run_id",
    "varied",
    "with_values",
]
