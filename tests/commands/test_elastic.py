"""Machines that leave a run: launch/torchrun.sh with a range of machines, of different sizes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pi05_train.checkpoint.run_state import latest
from pi05_train.commands.main import main
from tests.commands.conftest import Workspace
from tests.services.ports import free_ports
from tests.trainer.logged import logged

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).resolve().parents[2] / "launch" / "torchrun.sh"
STEPS = 40
SECONDS = 400


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def machine(log: Path, port: int, processes: int, overrides: list[str]) -> subprocess.Popen[bytes]:
    """One of one or two machines, which all are this one."""
    variables = {
        "NODES": "1:2",
        "RENDEZVOUS": f"127.0.0.1:{port}",
        "ADDRESS": "127.0.0.1",
        "PROCESSES": str(processes),
        "MAX_RESTARTS": "3",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    with log.open("wb") as file:
        return subprocess.Popen([SCRIPT, *overrides], env=os.environ | variables, stdout=file, stderr=file)


def kill(process: subprocess.Popen[bytes]) -> None:
    """As a machine goes that loses its power."""
    parent = psutil.Process(process.pid)
    for one in (parent, *parent.children(recursive=True)):
        one.send_signal(signal.SIGKILL)
    process.wait()


def listens(port: int) -> bool:
    with socket.socket() as there:
        return there.connect_ex(("127.0.0.1", port)) == 0


def test_a_run_goes_on_with_the_machines_that_are_left(prepared: Workspace, tmp_path: Path) -> None:
    """Three ranks on two machines, then two on one: the batches, so the losses, are those of one process, up to what
    rounding grows to in forty steps.
    """
    [port], elastic, alone = free_ports(1), tmp_path / "elastic", tmp_path / "alone"
    words = prepared.overrides("posttrain", f"run.steps={STEPS}", f"run.folder={elastic}", "engine=fsdp2")
    words += ["engine.precision=fp32"]
    stays = machine(tmp_path / "stays.log", port, 2, words)
    leaves = None
    try:
        wait_until(lambda: listens(port))
        leaves = machine(tmp_path / "leaves.log", port, 1, words)
        wait_until(lambda: (latest(elastic) or 0) >= 4)
        kill(leaves)
        left_at = latest(elastic) or 0
        assert stays.wait(SECONDS) == 0, (tmp_path / "stays.log").read_text()[-3000:]
    finally:
        for one in (stays, leaves):
            if one is not None and one.poll() is None:
                kill(one)
    assert left_at < STEPS
    assert main(["train", *prepared.overrides("posttrain", f"run.steps={STEPS}", f"run.folder={alone}")]) == 0
    for got, expected in zip(logged(elastic), logged(alone), strict=True):
        assert got == pytest.approx(expected, rel=1e-3)
