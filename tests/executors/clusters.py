"""A Dask and a Ray of two workers on this machine's loopback: for tests."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Self


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as end:
        end.bind(("127.0.0.1", 0))
        return end.getsockname()[1]


class Cluster:
    """Processes of a cluster, each the leader of its own group.

    Args:
        folder: For what they write; a short path, it becomes a socket's name.
    """

    launcher = ""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        (folder / "log").mkdir(parents=True)
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):  # Ray's never end at that
                process.wait(timeout=2)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    @property
    def words(self) -> list[str]:
        """What a command has to say to train on it."""
        raise NotImplementedError

    def begin(self, *line: str, **environment: str) -> None:
        """Start one of its processes, from another folder than the commands are given in."""
        log = self.folder / "log" / f"{self.launcher}-{len(self.processes)}"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", *line],
                cwd=self.folder,
                env={**self.environment, "LOSSBENCH_WAITS": "1", **environment},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)


class Dask(Cluster):
    """A scheduler and two workers, which are found by the scheduler's file."""

    launcher = "dask"

    @property
    def file(self) -> Path:
        return self.folder / "scheduler.json"

    @property
    def words(self) -> list[str]:
        return ["hydra/launcher=packed_dask", f"hydra.launcher.address={self.file}"]

    @property
    def place(self) -> list[str]:
        return ["--scheduler-file", str(self.file), "--no-dashboard"]

    def start(self) -> None:
        self.start_scheduler()
        for name in ("one", "two"):
            self.start_worker(name)

    def start_scheduler(self) -> None:
        line = ["--host", "127.0.0.1", "--port", "0"]
        self.begin("distributed.cli.dask_scheduler", *self.place, *line)
        until = time.monotonic() + 60
        while not self.file.exists() and time.monotonic() < until:
            time.sleep(0.1)

    def start_worker(self, name: str, **environment: str) -> None:
        line = ["--nthreads", "1", "--name", name, "--local-directory", str(self.folder / name)]
        self.begin("distributed.cli.dask_worker", *self.place, *line, **environment)


class Ray(Cluster):
    """A head and a worker, with a processor each, and a token that lets nobody else in."""

    launcher = "ray"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}

    @property
    def words(self) -> list[str]:
        return ["hydra/launcher=packed_ray", f"hydra.launcher.address=127.0.0.1:{self.port}"]

    def start(self) -> None:
        both = ["start", "--block", "--num-cpus=1", "--object-store-memory=80000000"]
        both += ["--node-ip-address=127.0.0.1", "--disable-usage-stats"]
        head = ["--head", f"--port={self.port}", "--include-dashboard=false"]
        head += [f"--temp-dir={self.folder}/ray"]
        self.begin("ray.scripts.scripts", *both, *head)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                break
            time.sleep(0.1)
        self.begin("ray.scripts.scripts", *both, f"--address=127.0.0.1:{self.port}")
