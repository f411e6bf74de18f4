"""Workers in jobs of PBS (SGE, LSF, HTCondor) for lossbench, through dask-jobqueue.

    pip install dask-jobqueue 'lossbench[dask]'
    python dask_on_pbs.py & # leave it running, on a login node
    until [ -s scheduler ]; do sleep 1; done
    lossbench experiment=essay hydra/launcher=packed_dask hydra.launcher.address=$(cat scheduler)

What a job asks for may also stand in ~/.config/dask/jobqueue.yaml, see https://jobqueue.dask.org.
"""

import signal
from pathlib import Path

from dask_jobqueue import PBSCluster  # or SGECluster, LSFCluster, HTCondorCluster

if __name__ == "__main__":
    with PBSCluster(cores=1, processes=1, memory="2GB", walltime="04:00:00") as cluster:
        cluster.scale(jobs=8)
        Path("scheduler").write_text(cluster.scheduler_address)
        try:
            signal.pause()
        finally:
            Path("scheduler").unlink()
