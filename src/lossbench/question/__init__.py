"""Runs as plain values: what one is, its checks and identity, and which of them train together."""

from lossbench.errors import ConfigError, nearest
from lossbench.question.identity import refuse_other_code
from lossbench.question.run import (
    ENGINE_SCHEMA,
    NEUTRAL,
    Draft,
    Init,
    Part,
    Run,
    is_named_after,
    part,
)
from lossbench.question.settings import PRECISIONS, TF32, Engine
from lossbench.question.vary import checked, fits, varied, with_values
