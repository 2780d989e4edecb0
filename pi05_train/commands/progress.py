"""One progress bar for work that is not training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Report = Callable[[int, int, str], None]
"""(done, total, what is being done now)."""


@contextmanager
def progress_bar(what: str) -> Iterator[Report]:
    """A function to call with (done, total, what): a bar, or a line every tenth elsewhere, with the remaining time."""
    console = Console()
    if not console.is_terminal:
        yield _lines(console, what)
        return
    columns = (
        TextColumn("{task.description}"),
        MofNCompleteColumn(),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("remaining"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=None)

        def report(done: int, total: int, now: str) -> None:
            bar.update(task, completed=done, total=total, description=f"{what}: {now}" if now else what)

        yield report


def _lines(console: Console, what: str) -> Report:
    tenth, first = -1, (-1, 0.0)

    def report(done: int, total: int, now: str) -> None:
        nonlocal tenth, first
        if first[0] < 0:  # what goes on begins with what an earlier call has done
            first = done, time.monotonic()
        if total and 10 * done // total > tenth:
            tenth = 10 * done // total
            seconds = (time.monotonic() - first[1]) * (total - done) / max(done - first[0], 1)
            left = f" ({timedelta(seconds=round(seconds))} left)" if first[0] < done < total else ""
            console.print(f"{what} {done}/{total}{left} {now}".rstrip(), highlight=False, soft_wrap=True)

    return report
