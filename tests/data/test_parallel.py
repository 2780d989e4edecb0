from __future__ import annotations

import os

import pytest

from pi05_train.data.parallel import in_order
from pi05_train.errors import UserError


def square(job: int) -> tuple[int, int]:
    return job * job, os.getpid()


def refuse(job: int) -> int:
    if job == 3:
        raise UserError("job", got=job, expected="another", do="leave it")
    return job


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_results_come_in_the_order_of_the_jobs(workers: int) -> None:
    results = list(in_order(square, range(20), workers))
    assert [number for number, _ in results] == [job * job for job in range(20)]
    assert (os.getpid() in {process for _, process in results}) == (workers < 2)


def test_a_workers_sentence_arrives_as_it_is() -> None:
    with pytest.raises(UserError, match="job: got 3, expected another; leave it"):
        list(in_order(refuse, range(100), 2))
    assert list(in_order(refuse, range(3), 1)) == [0, 1, 2]
