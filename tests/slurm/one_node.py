"""A Slurm of one node with accounting, as root, without systemd: for tests.

Debian packages: slurmctld slurmd slurm-client slurmdbd mariadb-server munge. Everything lies in one
folder and listens on ports of its own. Accounting is not optional: without it nobody learns that a
job has died.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd", "sbatch")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
CPUS = 5
"""What Slurm takes the node to have, however many it has: the jobs of the tests mostly wait."""


def missing() -> list[str]:
    """Programs that are needed and not there."""
    lacking = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    return lacking if os.geteuid() == 0 else ["root", *lacking]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as held:
        ends = [held.enter_context(socket.socket()) for _ in range(count)]
        for end in ends:
            end.bind(("127.0.0.1", 0))
        return [end.getsockname()[1] for end in ends]


class OneNode:
    """The node. `environment` is what commands need to find it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = free_ports(4)
        self.database: subprocess.Popen[bytes] | None = None
        self.environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")}
        for name in ("state", "spool", "log", "munge"):
            (folder / name).mkdir(parents=True)

    def start(self) -> None:
        """Start all six daemons, each when the one before answers."""
        self._munge()
        self._database()
        self._configure()
        self._begin(["slurmdbd"])
        self._until(["sacctmgr", "-n", "show", "cluster"])
        self.run("sacctmgr", "-i", "add", "cluster", "ci")
        self._begin(["slurmctld", "-c"])
        self._begin(["slurmd"])
        self._until(["sinfo", "-h", "-p", "main", "-o", "%t"], says="idle")

    def stop(self) -> None:
        """End every job, then every daemon."""
        for line in (["scancel", "--full", "-u", "root"], ["sleep", "1"]):
            with contextlib.suppress(subprocess.SubprocessError):
                self.run(*line)
        pids = ("slurmd.pid", "slurmctld.pid", "slurmdbd.pid", "munge/munged.pid")
        for name in pids:
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((self.folder / name).read_text()), signal.SIGTERM)
        time.sleep(1)
        for name in pids:
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((self.folder / name).read_text()), signal.SIGKILL)
        if self.database is not None:
            self.database.kill()
            self.database.wait()

    def run(self, *line: str) -> str:
        """Output of one of Slurm's commands; none may hang for ever."""
        done = subprocess.run(
            line, env=self.environment, capture_output=True, text=True, timeout=30, check=False
        )
        return done.stdout.strip()

    def states(self, *fields: str) -> list[str]:
        """What accounting says of all jobs, a line each."""
        told = self.run("sacct", "-nXP", "-o", ",".join(fields or ("JobID", "State")))
        return told.splitlines()

    def _munge(self) -> None:
        key = self.folder / "munge" / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        line = ["munged", "--force", f"--key-file={key}", f"--socket={self._socket}"]
        line += [f"--pid-file={self.folder}/munge/munged.pid", "--num-threads=2"]
        line += [
            f"--log-file={self.folder}/log/munged.log",
            f"--seed-file={self.folder}/munge/seed",
        ]
        self._begin(line)

    def _database(self) -> None:
        place, owner = ["--no-defaults", f"--datadir={self.folder}/db"], "--user=root"
        install = ["mariadb-install-db", *place, owner, "--skip-test-db"]
        install += ["--auth-root-authentication-method=normal"]
        with (self.folder / "log" / "install.log").open("wb") as log:
            subprocess.run(install, env=self.environment, stdout=log, stderr=log, check=True)
        line = ["mariadbd", *place, owner, f"--socket={self.folder}/db.sock"]
        line += [
            f"--pid-file={self.folder}/db.pid",
            "--bind-address=127.0.0.1",
            f"--port={self.ports[0]}",
        ]
        line += ["--innodb-buffer-pool-size=64M", "--innodb-log-file-size=64M"]
        line += ["--innodb-lock-wait-timeout=900"]
        log = (self.folder / "log" / "mariadb.log").open("wb")
        self.database = subprocess.Popen(
            line, env=self.environment, stdout=log, stderr=log, start_new_session=True
        )
        log.close()
        ask = ["mariadb", "--no-defaults", "-S", f"{self.folder}/db.sock", "-e"]
        self._until([*ask, "select 1"])
        self.run(
            *ask,
            "create database slurm_acct_db; create user slurm@'127.0.0.1' identified by 'slurm';"
            "grant all on slurm_acct_db.* to slurm@'127.0.0.1';",
        )

    def _configure(self) -> None:
        host = socket.gethostname().split(".")[0]
        megabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 - 1024
        shared = {"SlurmUser": "root", "AuthType": "auth/munge"}
        shared["AuthInfo"] = f"socket={self._socket}"
        database = shared | {
            "DbdHost": host,
            "DbdAddr": "127.0.0.1",
            "DbdPort": self.ports[1],
            "StorageType": "accounting_storage/mysql",
            "StorageHost": "127.0.0.1",
            "StoragePort": self.ports[0],
            "StorageUser": "slurm",
            "StoragePass": "slurm",
            "StorageLoc": "slurm_acct_db",
            "LogFile": f"{self.folder}/log/slurmdbd.log",
            "PidFile": f"{self.folder}/slurmdbd.pid",
        }
        node = shared | {
            "ClusterName": "ci",
            "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmdUser": "root",
            "SlurmctldPort": self.ports[2],
            "SlurmdPort": self.ports[3],
            "CredType": "cred/munge",
            "StateSaveLocation": f"{self.folder}/state",
            "SlurmdSpoolDir": f"{self.folder}/spool",
            "SlurmctldPidFile": f"{self.folder}/slurmctld.pid",
            "SlurmdPidFile": f"{self.folder}/slurmd.pid",
            "SlurmctldLogFile": f"{self.folder}/log/slurmctld.log",
            "SlurmdLogFile": f"{self.folder}/log/slurmd.log",
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "JobAcctGatherType": "jobacct_gather/none",
            "AccountingStorageType": "accounting_storage/slurmdbd",
            "AccountingStorageHost": "127.0.0.1",
            "AccountingStoragePort": self.ports[1],
            "AccountingStoragePass": self._socket,
            "MpiDefault": "none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core_Memory",
            "SchedulerParameters": "sched_min_interval=100000,bf_interval=2",
            "PreemptType": "preempt/partition_prio",
            "PreemptMode": "REQUEUE",
            "ReturnToService": 2,
            "KillWait": 2,
            "MaxArraySize": 4,
            "MinJobAge": 86_400,  # a job that ended is known until the last test
            "SlurmdParameters": "config_overrides",
        }
        lines = [f"{name}={value}" for name, value in node.items()]
        lines += [
            f"NodeName={host} NodeAddr=127.0.0.1 CPUs={CPUS} RealMemory={megabytes} State=UNKNOWN",
            f"PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP "
            "PriorityTier=1 GraceTime=20 PreemptMode=REQUEUE",
            f"PartitionName=high Nodes={host} MaxTime=INFINITE State=UP PriorityTier=10 "
            "PreemptMode=OFF",
            f"PartitionName=apart Nodes={host} MaxTime=INFINITE State=UP PriorityTier=1 "
            "PreemptMode=OFF",  # for what shall meet no other job
        ]
        path = self.folder / "slurmdbd.conf"
        path.write_text("".join(f"{name}={value}\n" for name, value in database.items()))
        path.chmod(0o600)
        (self.folder / "slurm.conf").write_text("\n".join(lines) + "\n")

    @property
    def _socket(self) -> str:
        return f"{self.folder}/munge/munge.socket"

    def _begin(self, line: list[str]) -> None:
        subprocess.run(
            line,
            env=self.environment,
            check=True,
            timeout=60,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _until(self, line: list[str], *, says: str = "") -> None:
        """Wait until a command works, and says what it should."""
        until = time.monotonic() + 60
        while time.monotonic() < until:
            done = subprocess.run(
                line, env=self.environment, capture_output=True, text=True, timeout=30, check=False
            )
            if done.returncode == 0 and says in done.stdout:
                return
            time.sleep(0.2)
        logs = [path.read_text(errors="replace")[-1500:] for path in self.folder.glob("log/*.log")]
        raise RuntimeError(f"{' '.join(line)} never answered\n" + "\n".join(logs))
