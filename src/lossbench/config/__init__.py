"""Hydra's configuration: its schema, what was typed, and the runs it asks for."""

from lossbench.config.compose import Composer, named, to_engine, to_run
from lossbench.config.overrides import (
    checked_overrides,
    explained,
    in_type_of_field,
    parsed,
    typed_lines,
    values_of,
)
from lossbench.config.schema import GROUPS, Config, is_key, known_keys, register
from lossbench.config.trust import check_folder, refuse_foreign
