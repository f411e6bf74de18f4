"""What an experiment trains: candidates for every loss alike, and more seeds while it is open.

The best candidate is chosen on validation alone, over all seeds; verdicts are read at declared
numbers of seeds.
"""

from lossbench.protocol.declaration import check_declaration
from lossbench.protocol.experiment import Experiment, Outline
from lossbench.protocol.grid import Candidate, Grid, candidates
