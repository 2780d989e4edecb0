"""launch/torchrun.sh with a run that only says who it is, so that processes start in seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.services.ports import free_ports

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).resolve().parents[2] / "launch" / "torchrun.sh"
RUN = """
import os, signal, sys, time
from torch.distributed.elastic.multiprocessing.errors import record

names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT")
rank, world, local, local_world, restarts = (int(os.environ[name]) for name in names)

@record
def main(verb, what, *more):
    print(f"rank {rank} of {world} is {local} of {local_world}: {verb} {what} {more}", flush=True)
    if what == "fail" and restarts < int(more[0]):
        if rank == 0:
            raise ValueError("no such\\nthing")
        time.sleep(1)  # as a rank of ours does, so that the first to fail speaks
        sys.exit(1)
    if what in ("save", "hang"):
        asked = []
        before = signal.signal(signal.SIGUSR1, lambda *_: asked.append(print("asked", flush=True)))
        print("listens", flush=True)
        while what == "hang" or not asked:
            signal.pause()
        signal.signal(signal.SIGUSR1, before)

main(*sys.argv[1:])
"""


@contextmanager
def launched(folder: Path, *arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """The script at work, in a session of its own; nothing of it is left after the block."""
    module = folder / "pi05_train" / "commands"
    module.mkdir(parents=True, exist_ok=True)
    for package in (module, module.parent):
        (package / "__init__.py").touch()
    (module / "main.py").write_text(RUN)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = subprocess.Popen(
        [SCRIPT, *arguments],
        cwd=folder,
        env=os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell in the background ignores it
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def output(process: subprocess.Popen[str], status: int = 0) -> tuple[list[str], list[str]]:
    """(stdout, stderr) in lines of a script that ended with this status."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == status, err
    return out.splitlines(), err.splitlines()


def test_machines_with_different_numbers_of_gpus_are_one_world(tmp_path: Path) -> None:
    here = {"NODES": "2", "RENDEZVOUS": f"127.0.0.1:{free_ports(1)[0]}", "ADDRESS": "127.0.0.1"}
    with ExitStack() as stack:
        machines = [
            stack.enter_context(launched(tmp_path, "say", "run.steps=1", "x=[a, b]", PROCESSES=processes, **here))
            for processes in ("1", "2")
        ]
        said = [line for machine in machines for line in output(machine)[0]]
    who, what = zip(*(line.split(": ") for line in said), strict=True)
    assert set(what) == {"train say ('run.steps=1', 'x=[a, b]')"}
    assert sorted(line.partition(" is ")[0] for line in who) == [f"rank {rank} of 3" for rank in range(3)]
    assert sorted(line.partition(" is ")[2] for line in who) == ["0 of 1", "0 of 2", "1 of 2"]


def test_a_failed_run_is_started_again_as_often_as_allowed_and_its_last_line_is_the_error(tmp_path: Path) -> None:
    with launched(tmp_path, "fail", "2", PROCESSES="2", MAX_RESTARTS="1") as script:
        out, err = output(script, status=1)
    assert len(out) == 4
    assert err[-1] == "ValueError: no such thing"


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGINT])
def test_a_signal_asks_every_rank_to_save_and_is_no_failure(tmp_path: Path, number: signal.Signals) -> None:
    """Also one that comes before the ranks listen, and to the whole group as a terminal and SLURM send it."""
    with launched(tmp_path, "save", PROCESSES="2") as script:
        wait_for(script, "rank", 2)
        os.killpg(script.pid, number)
        output(script)


def test_a_second_interrupt_ends_ranks_that_do_not_leave(tmp_path: Path) -> None:
    with launched(tmp_path, "hang", PROCESSES="2", MAX_RESTARTS="1") as script:
        wait_for(script, "listens", 2)
        os.killpg(script.pid, signal.SIGINT)
        wait_for(script, "asked", 2)
        os.killpg(script.pid, signal.SIGINT)
        output(script, status=128 + signal.SIGKILL)


def test_several_machines_need_a_place_to_meet(tmp_path: Path) -> None:
    with launched(tmp_path, "say", NODES="2") as script:
        assert "RENDEZVOUS: got nothing" in output(script, status=2)[1][-1]


def wait_for(script: subprocess.Popen[str], word: str, times: int) -> None:
    """Until so many lines of the ranks began with a word."""
    assert script.stdout
    while times:
        line = script.stdout.readline()
        assert line, f"it ended before it said {word}"
        times -= line.startswith(word)
