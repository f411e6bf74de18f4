"""Tune, then confirm: every loss gets its own best learning rate, fairly.

Every loss is tuned with the same number of candidates on the same seeds, chosen on validation
alone, and judged on fresh seeds. Tuning seeds never confirm.
"""

from lossbench.protocol.declaration import check_declaration
from lossbench.protocol.experiment import Experiment, Outline
from lossbench.protocol.grid import Candidate, Grid, candidates
