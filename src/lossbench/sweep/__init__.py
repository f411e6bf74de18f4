"""Sweep: a folder of runs that are planned and trained in packs; a pack that fails is halved."""

from lossbench.sweep.preflight import preflight, splits_of
from lossbench.sweep.sweep import Sweep
