"""Processes of a test that need not import: forks of one process that has only imported, and lives as long as pytest.

Importing takes most of them longer than all that they do. They end as every process does, interpreter included. Unlike
the processes of `run_ranks` they have the seed of Python's hashes in common, and write what they say to files.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from tests.engine.launched import ROOT, environments

IMPORTED = ("torch._dynamo", "torch.distributed.fsdp", "pi05_train.train")


def fork_ranks(size: int, *arguments: str, seconds: int = 600) -> list[subprocess.CompletedProcess[str]]:
    """`python *arguments` as `run_ranks` runs it, for arguments that begin with -m or -c."""
    parent = _parent()
    assert parent.stdin
    assert parent.stdout
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder, str(rank)) for rank in range(size)]
        children = [
            {"environment": environment, "arguments": arguments, "output": str(place)}
            for environment, place in zip(environments(size), places, strict=True)
        ]
        try:
            parent.stdin.write(json.dumps(children) + "\n")
            parent.stdin.flush()
            if not select.select([parent.stdout], [], [], seconds)[0]:
                raise subprocess.TimeoutExpired(arguments, seconds)
            statuses = json.loads(parent.stdout.readline())
        except BaseException:
            os.killpg(parent.pid, signal.SIGKILL)
            _parent.cache_clear()
            raise
        return [
            subprocess.CompletedProcess(
                arguments, status, place.with_suffix(".out").read_text(), place.with_suffix(".err").read_text()
            )
            for status, place in zip(statuses, places, strict=True)
        ]


@cache
def _parent() -> subprocess.Popen[str]:
    """The process that has only imported; in a session of its own, with its children."""
    parent = subprocess.Popen(
        [sys.executable, "-m", "tests.engine.forked"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    atexit.register(parent.communicate)  # closes its stdin
    return parent


def _fork_until_told() -> dict[str, Any] | None:
    """Fork what each line of stdin asks for and answer with exit statuses; returns in each child what it is to be."""
    gc.freeze()  # what was imported is no garbage; to look at it would copy it in each child
    for line in sys.stdin:
        processes = []
        for child in json.loads(line):
            process = os.fork()
            if process == 0:
                return child  # type: ignore[no-any-return]
            processes.append(process)
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]), flush=True)
    return None


def _become(child: dict[str, Any]) -> None:
    """Run as a new Python would."""
    os.environ.clear()
    os.environ.update(child["environment"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, suffix in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(child["output"] + suffix, os.O_WRONLY | os.O_CREAT), descriptor)
    kind, program, *arguments = child["arguments"]
    sys.argv[1:] = arguments
    if kind == "-m":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        exec(program, {"__name__": "__main__"})


if __name__ == "__main__":
    for name in IMPORTED:
        importlib.import_module(name)
    told = _fork_until_told()
    if told is not None:
        _become(told)
