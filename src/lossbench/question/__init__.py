"""Question of a command as plain values: runs, cells, packs, candidates and the declaration."""

from lossbench.errors import ConfigError
from lossbench.question.code import refuse_other_code
from lossbench.question.grid import Candidate, Grid, candidates
from lossbench.question.question import Candidates, Question
from lossbench.question.run import ENGINE_SCHEMA, Part, Run, is_named_after, part
from lossbench.question.settings import PRECISIONS, TF32, Engine
from lossbench.question.vary import checked, fits, varied
