"""A real SLURM for tests: Debian's munge and SLURM, one controller and two virtual nodes of one CPU on this machine.

Needs `apt-get install slurm-wlm munge` and root, because SLURM's daemons start jobs for others. By hand:
`python -m tests.services.slurm FOLDER` keeps it running until Ctrl-C and prints the variable to set.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.services.ports import free_ports

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")
START_SECONDS = 120
NODES = ("n1", "n2")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
AuthType=auth/munge
# A requeued job waits until its old credentials have run out: 120 s, if they may.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_interval=1
NodeName={nodes} NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]},{ports[2]}] CPUs=1
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """What this machine lacks to run it."""
    return [program for program in PROGRAMS if shutil.which(program) is None] + ["root"] * (os.geteuid() != 0)


class Slurm:
    """A running cluster; jobs run as the user that started it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "state").mkdir(parents=True)
        folder.chmod(0o755)
        self.variables = {"SLURM_CONF": str(folder / "slurm.conf")}
        text = CONFIGURATION.format(
            host=socket.gethostname(),
            user=pwd.getpwuid(os.geteuid()).pw_name,
            ports=free_ports(1 + len(NODES)),
            nodes=",".join(NODES),
            folder=folder,
        )
        (folder / "slurm.conf").write_text(text)
        (folder / "munge.key").touch(0o400)
        (folder / "munge.key").write_bytes(secrets.token_bytes(128))

    def start(self) -> None:
        """Start the daemons; returns when both nodes can take a job."""
        files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self.call("munged", "--force", *(f"--{option}={self.folder}/munge.{file}" for option, file in files.items()))
        self.call("slurmctld", "-c")
        for node in NODES:
            self.call("slurmd", "-c", "-N", node)
        self.wait_until(lambda: self.call("sinfo", "--noheader", "--states=idle", "--format=%D").strip() == "2")

    def stop(self) -> None:
        """End jobs and daemons."""
        with suppress(AssertionError, FileNotFoundError):
            self.call("scancel", "--user", pwd.getpwuid(os.geteuid()).pw_name)
            self.wait_until(lambda: not self.call("squeue", "--noheader"))
        for name in (*NODES, "slurmctld", "munge"):
            with suppress(FileNotFoundError, ProcessLookupError):
                _end(int((self.folder / f"{name}.pid").read_text()))

    def call(self, *command: str, cwd: Path | None = None, **variables: str) -> str:
        """What one of SLURM's programs prints."""
        environment = os.environ | self.variables | variables
        done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=START_SECONDS)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def wait_until(self, true: Callable[[], bool], seconds: float = START_SECONDS) -> None:
        """Ask again and again; an AssertionError with the controller's last words where it takes too long."""
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, (self.folder / "slurmctld.log").read_text()[-2000:]
            time.sleep(0.2)


@contextmanager
def slurm(folder: Path) -> Iterator[Slurm]:
    """A started cluster, until the block ends; `folder` does not exist and its path is short (sockets stand in it)."""
    cluster = Slurm(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _end(process: int) -> None:
    os.kill(process, signal.SIGTERM)
    deadline = time.monotonic() + START_SECONDS
    while Path(f"/proc/{process}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)


if __name__ == "__main__":
    with slurm(Path(sys.argv[1]).resolve()) as running:
        for variable, value in running.variables.items():
            print(f"export {variable}={value}", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()
