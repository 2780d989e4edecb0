"""Work divided among processes, which tell what they have found as soon as they have it."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Generator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from pi05_train.convert.units import prepare_worker
from pi05_train.errors import UserError

Share = TypeVar("Share")
Found = TypeVar("Found")
Tell = Callable[[Found], None]
Work = Callable[[Share, Tell[Found]], None]


def in_processes(work: Work[Share, Found], shares: Sequence[Share]) -> Generator[Found]:
    """What `work(share, tell)` tells, as it comes, with one process for every share.

    `work`, shares and what is told must be picklable. The first exception of a process is raised here; closing the
    iterator ends all processes. A process that is killed is a UserError.
    """
    context = multiprocessing.get_context("spawn")
    running: dict[Connection, SpawnProcess] = {}
    try:
        for share in shares:
            ours, theirs = context.Pipe(duplex=False)
            running[ours] = context.Process(target=_work, args=(work, share, theirs))
            _start(running[ours])
            theirs.close()
        while running:
            for pipe in wait(list(running)):
                assert isinstance(pipe, Connection)
                try:
                    found = pipe.recv()
                except EOFError:
                    _ended(running.pop(pipe))
                    continue
                if isinstance(found, Exception):
                    raise found
                yield found
    finally:
        for process in running.values():
            process.terminate()
            process.join()


def _start(process: SpawnProcess) -> None:
    """It inherits that Ctrl-C is not its business, so even while it imports it says nothing about that."""
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, heard)


def _ended(process: SpawnProcess) -> None:
    process.join()
    if process.exitcode:
        raise UserError(
            "a process",
            got=f"its end, with exit code {process.exitcode}",
            expected="its share of the work",
            do="look at the memory, and start fewer",
        )


def _work(work: Work[Any, Any], share: Any, pipe: Connection) -> None:
    prepare_worker()
    try:
        work(share, pipe.send)
    except Exception as error:
        pipe.send(error)
