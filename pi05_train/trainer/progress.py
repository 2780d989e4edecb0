"""What a person sees while a run trains: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY_PERCENT = 5


class ProgressView:
    """Steps done, loss, samples per second and the time that remains; a context manager."""

    def __init__(
        self, start: int, steps: int, console: Console, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._start, self._steps, self._console, self._clock = start, steps, console, clock
        self._begin = clock()
        self._percent = 100 * start // steps // LINE_EVERY_PERCENT
        columns = (
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("loss {task.fields[loss]:.4f}  {task.fields[rate]:.1f} samples/s  remaining"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=console) if console.is_terminal else None
        if self._bar is not None:
            self._task = self._bar.add_task("", total=steps, completed=start, loss=float("nan"), rate=0.0)

    def __enter__(self) -> ProgressView:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: int, loss: float, samples_per_second: float) -> None:
        """`done` steps are done; the last one's loss was `loss`."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, loss=loss, rate=samples_per_second)
            return
        percent = 100 * done // self._steps // LINE_EVERY_PERCENT
        if percent > self._percent:
            self._percent = percent
            per_step = (self._clock() - self._begin) / (done - self._start)
            remaining = timedelta(seconds=round(per_step * (self._steps - done)))
            self._console.print(
                f"step {done}/{self._steps}  loss {loss:.4f}  {samples_per_second:.1f} samples/s  {remaining} left",
                highlight=False,
            )
