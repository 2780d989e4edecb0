"""The same function over many jobs, in worker processes, with the results in the jobs' order."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_order(function: Callable[[Job], Result], jobs: Iterable[Job], workers: int) -> Iterator[Result]:
    """`function` of each job, in their order, whatever `workers` is; fewer than 2 workers stay in this process.

    `function` and jobs must be picklable. The first exception of a worker is raised here, as it is.
    """
    if workers < 2:
        yield from map(function, jobs)
        return
    waiting: deque[Future[Result]] = deque()
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_quietly)
    try:
        for job in jobs:
            waiting.append(pool.submit(function, job))
            if len(waiting) > 2 * workers:  # results must not pile up behind a slow one
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _quietly() -> None:
    """Ctrl-C reaches every process of the terminal; the parent alone speaks about it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
