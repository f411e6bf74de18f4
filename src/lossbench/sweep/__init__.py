"""One folder of runs: planned, trained pack by pack, watched, halved where a pack breaks."""

from lossbench.sweep.preflight import preflight, splits_of
from lossbench.sweep.sweep import Sweep
