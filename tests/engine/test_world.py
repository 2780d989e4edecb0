"""Processes that start together end together, and the one that failed says why."""

from __future__ import annotations

import pytest

from pi05_train.engine.world import World, open_world
from pi05_train.errors import UserError
from tests.engine.forked import fork_ranks

FAILS = """
import sys, threading
from pi05_train.engine.world import open_world
from pi05_train.errors import UserError
with open_world() as world:
    assert world.sum([world.rank, 1]) == [3, 3]
    assert world.max([world.rank, -world.rank]) == [2, 0]
    assert world.gather(str(world.rank)) == ["0", "1", "2"]
    if world.rank == 1:
        raise UserError("rank one", got="a fault", expected="none", do="mend it")
    if world.rank == 0:
        threading.Event().wait()
    world.barrier()
"""


def test_the_rank_that_fails_speaks_alone_and_ends_those_that_wait() -> None:
    """One waits in a collective, one somewhere else, forever."""
    waiting, failing, in_a_collective = fork_ranks(3, "-c", FAILS)
    assert failing.stderr.splitlines()[-1].endswith("rank one: got a fault, expected none; mend it.")
    for other in (waiting, in_a_collective):
        assert other.returncode != 0
        assert "Traceback" not in other.stderr


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with open_world() as world:
        assert world == World(rank=0, size=1, local_rank=0, group=False)
        assert world.sum([3]) == [3]
        assert world.gather("a") == ["a"]


def test_a_half_set_environment_is_refused_by_the_first_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UserError, match=r"without .*MASTER_ADDR"), open_world():
        pass
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit, match="1"), open_world():
        pass
