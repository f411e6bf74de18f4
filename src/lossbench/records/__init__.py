"""What a sweep leaves behind: columns, metrics, words, and how to load them. No torch here."""

from lossbench.records.columns import (
    COLUMNS,
    KEYS,
    SCHEMA,
    TABLES,
    Column,
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
    OF_CLASS,
    OWN_LOSS,
    PRIMARY,
    STANDARD,
    Instrument,
    Metric,
    direction,
    metric_of,
    sign,
)
from lossbench.records.plan import (
    LISTED,
    Plan,
    encode_runs,
    files_of,
    path_of,
    planned,
    read_facts,
    read_listed,
    read_plan,
)
from lossbench.records.vocabulary import (
    CONDITIONS,
    FACTORS,
    NOT_WORSE,
    QUESTIONS,
    REFERENCE,
    REPORTS,
    RESULTS,
    SAYINGS,
    SIGNALS,
    SPLITS,
    STATUSES,
    Condition,
    declared,
    duration,
    question_in,
)
