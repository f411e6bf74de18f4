"""Connection to a running Ray cluster, or to a new one on this machine."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from types import ModuleType
from typing import Any

from lossbench.processes import beginning, cores
from lossbench.question.schema import LauncherNode
from lossbench.sweep.executors import ANSWERING, import_package, unreachable

BYTES_OF_OBJECTS = 80 * 2**20
"""Size of Ray's object store, in bytes: the least that Ray allows, as the store stays empty."""


@contextlib.contextmanager
def connect(launcher: LauncherNode, threads: int) -> Iterator[tuple[Executor, int]]:
    """Connect to Ray; yields an executor, and the number of packs that its nodes train together."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray sends no usage statistics
    package = import_package("ray", "ray")
    arguments: dict[str, object] = {"address": launcher.address}
    if launcher.address is None:
        count = launcher.workers * threads or cores()
        arguments = {"num_cpus": count, "object_store_memory": BYTES_OF_OBJECTS}
        arguments["include_dashboard"] = False
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        # Ray itself would try for minutes. Other forms of address cannot be tested.
        if match := re.fullmatch(r"(?:ray://)?([^/]+):(\d+)", launcher.address or ""):
            socket.create_connection((match[1], int(match[2])), timeout=ANSWERING).close()
        with beginning(()):
            package.init(**arguments, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        raise unreachable("Ray cluster", launcher.address, error) from error
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():  # Ray has replaced them by its own
            signal.signal(number, handler)
    try:
        yield (
            RayExecutor(package, threads),
            int(package.cluster_resources().get("CPU", 0)) // threads,
        )
    finally:
        package.shutdown()


class RayExecutor(Executor):
    """Python's interface `Executor` for tasks of Ray, each of which takes `threads` processors."""

    def __init__(self, package: ModuleType, threads: int) -> None:
        self.package = package
        self.options = {"num_cpus": threads, "max_retries": 0}

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See `Executor`."""
        task = self.package.remote(fn).options(**self.options)
        return task.remote(*args, **kwargs).future()
