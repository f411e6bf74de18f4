"""One folder of runs: who trains which pack, how far it is, what becomes of those that break."""

from lossbench.sweep.preflight import preflight, splits_of
from lossbench.sweep.sweep import Sweep
