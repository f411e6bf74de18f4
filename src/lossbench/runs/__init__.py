"""Runs as plain values: what one is, its checks and identity, and which of them train together."""

from lossbench.errors import ConfigError, nearest
from lossbench.runs.checks import checked, fits, varied, with_values
from lossbench.runs.run import ENGINE_SCHEMA, NEUTRAL, Draft, Init, Part, Run, is_named_after, part
from lossbench.runs.settings import PRECISIONS, TF32, Engine
from lossbench.runs.source import refuse_other_code
