"""Connection to a running Dask cluster, or to a new one on this machine."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path

from lossbench.processes import beginning, cores
from lossbench.question.schema import LauncherNode
from lossbench.sweep.executors import ANSWERING, import_package, unreachable


@contextlib.contextmanager
def connect(launcher: LauncherNode, threads: int) -> Iterator[tuple[Executor, int]]:
    """Connect to Dask; yields an executor, and the number of packs that workers train together."""
    distributed = import_package("distributed", "dask")
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # lossbench logs what matters
    address, arguments = launcher.address, {}
    with contextlib.ExitStack() as stack:
        if address is None:
            with beginning(()):  # an interrupt reaches workers through the command only
                cluster = distributed.LocalCluster(
                    n_workers=launcher.workers or max(1, cores() // threads),
                    threads_per_worker=1,
                    dashboard_address=None,
                    silence_logs=logging.CRITICAL,
                )
            arguments["address"] = stack.enter_context(cluster)
        else:
            arguments["scheduler_file" if Path(address).is_file() else "address"] = address
        try:
            client = stack.enter_context(distributed.Client(**arguments, timeout=ANSWERING))
        except (OSError, ValueError) as error:
            raise unreachable("Dask scheduler", address, error) from error
        yield client.get_executor(pure=False), sum(client.nthreads().values())
