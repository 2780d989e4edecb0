"""Several processes of a test, started as a launcher would start them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.services.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]


def environments(size: int) -> list[dict[str, str]]:
    """What a launcher on this machine says to ranks 0, 1, ... of one process group; nothing to a process alone."""
    common = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    if size == 1:
        return [common]
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_ports(1)[0])}
    return [common | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]


def run_ranks(size: int, *arguments: str, seconds: int = 600) -> list[subprocess.CompletedProcess[str]]:
    """`python *arguments` as each rank; what each printed, once all have ended."""
    processes = [
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for environment in environments(size)
    ]
    try:
        outputs = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *output)
        for process, output in zip(processes, outputs, strict=True)
    ]
