"""Checkpoints of a running training: what they hold, when they count, and what a failed one does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pi05_train.checkpoint import run_state, saver
from pi05_train.checkpoint.config import CheckpointConfig
from pi05_train.checkpoint.ranks import ONE_RANK, Ranks
from pi05_train.checkpoint.run_state import load, steps_saved
from pi05_train.checkpoint.saver import Saver
from pi05_train.checkpoint.tensors import flat, own_share, total_bytes
from pi05_train.errors import UserError


def state(value: float) -> dict[str, Any]:
    return {"model": {"a": torch.full((3, 2), value)}, "step": torch.tensor(int(value))}


def make(run: Path, **options: Any) -> Saver:
    config = CheckpointConfig(**({"every_steps": 1, "keep_last": 2} | options))
    return Saver(run, config, ONE_RANK, state(0.0), pinned=False)


def loaded(run: Path, step: int) -> float:
    into = state(0.0)
    load(run, step, into)
    return float(into["model"]["a"].mean())


class Disk:
    """Holds back or fails the writing of tensors."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.fails = False

    def __call__(self, *arguments: Any) -> list[Path]:
        assert self.free.wait(60)
        if self.fails:
            raise UserError("writing", got="no disk", expected="one", do="mend it")
        return self.write_tensors(*arguments)

    write_tensors = staticmethod(run_state.write_tensors)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk()
    monkeypatch.setattr(run_state, "write_tensors", disk)
    yield disk
    disk.free.set()


def test_training_goes_on_and_the_checkpoint_holds_what_was(tmp_path: Path, disk: Disk) -> None:
    with make(tmp_path) as saver:
        now = state(1.0)
        saver.save(1, now, {})
        now["model"]["a"].zero_()  # the next step
        saver.before_step()
        assert steps_saved(tmp_path) == []
        disk.free.set()
    assert steps_saved(tmp_path) == [1], "the end waits"
    assert loaded(tmp_path, 1) == 1.0


def test_the_next_save_waits_for_the_one_before(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose copy it would overwrite; the disk is held until it has begun to wait."""
    wait = Saver.wait

    def waiting(self: Saver) -> None:
        if self._writing is not None:
            disk.free.set()
        wait(self)

    monkeypatch.setattr(Saver, "wait", waiting)
    now = state(1.0)
    with make(tmp_path) as saver:
        saver.save(1, now, {})
        now["model"]["a"].fill_(2.0)
        saver.save(2, now, {})
        assert steps_saved(tmp_path)[:1] == [1]
    assert [loaded(tmp_path, step) for step in (1, 2)] == [1.0, 2.0]


def test_without_asynchronous_it_is_complete_at_once(tmp_path: Path, disk: Disk) -> None:
    disk.free.set()
    with make(tmp_path, asynchronous=False) as saver:
        saver.save(1, state(1.0), {})
        assert steps_saved(tmp_path) == [1]


def test_a_failed_write_ends_the_run_and_leaves_the_one_before(tmp_path: Path, disk: Disk) -> None:
    disk.free.set()

    def run(saver: Saver) -> None:
        saver.save(1, state(1.0), {})
        saver.wait()
        disk.fails = True
        saver.save(2, state(2.0), {})
        while True:
            saver.before_step()

    with make(tmp_path) as saver, pytest.raises(UserError, match="mend it"):
        run(saver)
    assert loaded(tmp_path, steps_saved(tmp_path)[-1]) == 1.0
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_the_last_write_may_fail_too(tmp_path: Path, disk: Disk) -> None:
    disk.free.set()
    disk.fails = True
    with pytest.raises(UserError, match="mend it"), make(tmp_path) as saver:
        saver.save(1, state(1.0), {})


def test_an_error_of_the_run_is_the_one_that_is_shown(tmp_path: Path, disk: Disk) -> None:
    """And the checkpoint of an earlier step is completed."""

    class OfTheRunError(Exception):
        pass

    def run(step: int) -> None:
        with make(tmp_path) as saver:
            saver.save(step, state(float(step)), {})
            disk.free.set()
            raise OfTheRunError

    for step, fails in ((1, False), (2, True)):
        disk.free.clear()
        disk.fails = fails
        with pytest.raises(OfTheRunError):
            run(step)
    assert steps_saved(tmp_path) == [1]


def test_room_is_looked_for_before_steps_that_could_not_be_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first one and after every save: not when the steps are done."""
    looked: list[int] = []

    def full(_: Path, needed_bytes: int) -> None:
        looked.append(needed_bytes)
        if len(looked) == 2:
            raise UserError("writing", got="no room", expected="some", do="make room")

    monkeypatch.setattr(saver, "check_space", full)
    with make(tmp_path, asynchronous=False) as saving:
        saving.before_step()
        saving.before_step()
        assert looked == [total_bytes(state(0.0))]
        saving.save(1, state(1.0), {})
        with pytest.raises(UserError, match="make room"):
            saving.before_step()
    assert steps_saved(tmp_path) == [1]


def test_the_newest_and_every_so_many_are_kept(tmp_path: Path) -> None:
    with make(tmp_path, keep_every_steps=3) as saver:
        for step in range(1, 9):
            saver.save(step, state(float(step)), {})
    assert steps_saved(tmp_path) == [3, 6, 7, 8]


def test_what_was_cut_off_is_cleared(tmp_path: Path) -> None:
    for name in (".saving-step-00000005", ".deleting-step-00000001", "step-00000003"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "x").touch()
    with make(tmp_path):
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]


@given(sizes=st.lists(st.integers(0, 100), max_size=12), ranks=st.integers(1, 5))
def test_what_ranks_have_alike_is_written_once_and_shared_out(sizes: list[int], ranks: int) -> None:
    whole = {"model": {f"w.{i}": torch.zeros(size) for i, size in enumerate(sizes)}, "step": torch.tensor(1)}
    shares = [flat(own_share(whole, Ranks(rank, ranks))) for rank in range(ranks)]
    names = [name for share in shares for name in share]
    assert sorted(names) == sorted(flat(whole))
    loads = [sum(value.nbytes for value in share.values()) for share in shares]
    assert max(loads) - min(loads) <= max(value.nbytes for value in flat(whole).values())
