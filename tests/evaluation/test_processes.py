"""Work in several processes: all that is found is heard of, and what goes wrong in one of them ends them all."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable

import pytest

from pi05_train.errors import UserError
from pi05_train.evaluation.processes import in_processes


def work(share: list[int], tell: Callable[[tuple[int, int]], None]) -> None:
    """Tells each number of its share and the process; refuses 13, is killed at 99 and never ends after 100."""
    for number in share:
        if number == 13:
            raise UserError("number", got=13, expected="another", do="correct it")
        if number == 99:
            os.kill(os.getpid(), signal.SIGKILL)
        tell((number, os.getpid()))
        while number == 100:
            signal.pause()


def test_every_share_has_a_process_and_all_is_heard() -> None:
    found = list(in_processes(work, [[1, 2, 3], [4, 5]]))
    assert sorted(number for number, _ in found) == [1, 2, 3, 4, 5]
    assert [number for number, _ in found if number < 4] == [1, 2, 3]
    assert len({process for _, process in found} - {os.getpid()}) == 2


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (13, "number: got 13, expected another"),
        pytest.param(99, "got its end, with exit code -9", marks=pytest.mark.slow),
    ],
)
def test_what_one_cannot_do_ends_the_others(number: int, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        list(in_processes(work, [[100], [number]]))
    assert not multiprocessing.active_children()
