"""Losses, models and data of the user: registration, examination, and containment of the code."""

from lossbench.data.tables import SOURCE, Reading, batch_size
from lossbench.user_code.containment import (
    CALL_PATIENCE,
    draw_from_global_generators,
    is_own,
    restoring_process_state,
)
from lossbench.user_code.datasets import data_row
from lossbench.user_code.examination import (
    Examination,
    bare_row,
    examine,
    file_and_line,
    loss_rows,
)
from lossbench.user_code.modules import (
    Own,
    add,
    is_added,
    load_extensions,
    loss_of,
    losses_in,
    model_row,
    module_of,
    own_rows,
    renamed,
)
from lossbench.user_code.trial import TrialProcess
