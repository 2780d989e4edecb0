"""Asking a run to stop: finish the step, save, leave."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class StopRequest:
    """The signal that asked to stop, or None."""

    signal: int | None = None


@contextmanager
def stop_requests(clock: Callable[[], float] = time.monotonic) -> Iterator[StopRequest]:
    """SIGINT, SIGTERM and SIGUSR1 (SLURM's warning, by our scripts) fill in the request while entered; a SIGINT more
    than a second later interrupts at once.

    Sooner it is the same request: launchers pass on what the whole process group was sent already.
    """
    request, since = StopRequest(), 0.0

    def handle(number: int, _: FrameType | None) -> None:
        nonlocal since
        if request.signal is None:
            request.signal, since = number, clock()
        elif number == signal.SIGINT and clock() - since > 1.0:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
