"""Training loop that turns a pack of runs into five tables of records."""

from lossbench.engine.batches import batch_indices
from lossbench.engine.contracts import (
    refuse_too_large,
    refuse_unfit,
    refuse_unpaired,
    refuse_unwidened,
)
from lossbench.engine.machine import Machine
from lossbench.engine.members import initial_model, runs_apart
from lossbench.engine.recorder import failed
from lossbench.engine.state import Saved, Snapshot, decoded, encoded
from lossbench.engine.train import OtherStart, train
