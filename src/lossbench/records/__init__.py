"""Records of a sweep: columns, metrics, vocabulary, plan, and loading. Does not import torch."""

from lossbench.records.columns import (
    COLUMNS,
    KEYS,
    SCHEMA,
    TABLES,
    decode,
    encode,
    schema,
    table_from,
)
from lossbench.records.load import Records, load
from lossbench.records.metrics import (
    AGREEMENT,
    CLEAN,
    INSTRUMENTS,
    METRICS,
    OWN_LOSS,
    PRIMARY,
    STANDARD,
    Metric,
    direction,
    metric_of,
    sign,
)
from lossbench.records.plan import (
    EMPTY_PLAN,
    Plan,
    encode_runs,
    extend_plan,
    files_of,
    has_curves,
    is_written,
    path_of,
    planned,
    read_facts,
    read_plan,
    write_plan,
)
from lossbench.records.vocabulary import (
    CONDITIONS,
    FACTORS,
    NOT_WORSE,
    QUESTIONS,
    RECORDED_AS,
    REFERENCE,
    REPORTS,
    RESULTS,
    SAYINGS,
    SIGNALS,
    SPLITS,
    STATUSES,
    Declaration,
    declared,
    duration,
    question_in,
    recorded,
)
