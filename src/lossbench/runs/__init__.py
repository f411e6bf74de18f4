"""Runs as plain values: what one is, its identity, how it is computed, and which train together."""

from lossbench.runs.identity import ENGINE_SCHEMA, refuse_other_code, run_id
from lossbench.runs.run import ConfigError, Init, Part, Run
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
    "refuse_other_code",
    "run_id",
]
