"""A folder is written whole or not at all, also when the disk is full, and says so in one sentence."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from pi05_train.checkpoint.integrity import check_space, is_complete, write_atomically
from pi05_train.checkpoint.run_state import latest, save
from pi05_train.checkpoint.storage.orbax_write import write_orbax
from pi05_train.checkpoint.storage.own import write_weights_folder
from pi05_train.checkpoint.storage.source import spec_of
from pi05_train.errors import UserError
from pi05_train.trainer.run_folder import RunFolder

LARGE = {"a": torch.randn(50_000), "b": torch.randn(500_000)}
SPECS = {name: spec_of(tensor) for name, tensor in LARGE.items()}


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


def test_a_run_whose_disk_fills_up_or_cannot_be_written_says_so(full: Path) -> None:
    with pytest.raises(UserError, match="No space left on device") as refusal:
        fill(full)
    assert "\n" not in str(refusal.value)
    remount(full, "ro")
    with pytest.raises(UserError, match="Read-only file system"):
        RunFolder(full / "other", config="{}\n", fingerprints={})
    with pytest.raises(UserError, match="Read-only file system"):
        save(full / "other", 1, {}, {})


def fill(disk: Path) -> None:
    with RunFolder(disk / "run", config="{}\n", fingerprints={}) as folder:
        while True:
            folder.append_metrics({f"loss/{i}": 0.1 for i in range(1000)})


def weights_folder(disk: Path) -> None:
    write_weights_folder(disk / "w", SPECS, LARGE.items(), model_yaml="", origin={}, assets={})


def orbax(disk: Path) -> None:
    write_atomically(disk / "w", lambda folder: write_orbax(folder, SPECS, LARGE.items()))


def checkpoint(disk: Path) -> None:
    save(disk, 1, {"model": LARGE}, {})


@pytest.mark.parametrize("write", [weights_folder, orbax, checkpoint])
def test_a_disk_that_fills_up_is_one_sentence_and_left_clean(
    full: Path, write: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pi05_train.checkpoint.integrity.check_space", lambda *_: None)
    with pytest.raises(UserError, match="expected a disk that takes it") as refusal:
        write(full)
    assert "\n" not in str(refusal.value)
    assert not [path for path in full.rglob("*") if path.is_file()]
    assert latest(full) is None


def test_too_little_space_is_refused_before_anything_is_written(full: Path) -> None:
    with pytest.raises(UserError, match=r"GB free, expected at least 0\.0 GB"):
        weights_folder(full)
    assert not list(full.iterdir())


def test_space_is_looked_for_where_the_folder_will_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_space(tmp_path / "not" / "there" / "yet", 1)
    monkeypatch.chdir(tmp_path)
    check_space(Path("not/there"), 1)
    with pytest.raises(UserError, match="make room"):
        check_space(tmp_path / "x", 10**18)


def test_a_file_too_large_for_the_file_system_is_one_sentence(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match=r"File too large.*nothing half-written"):
            weights_folder(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cause", [KeyboardInterrupt, SystemExit, ValueError])
@pytest.mark.parametrize("moment", ["writing", "syncing", "naming"])
def test_a_failure_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: type[BaseException], moment: str
) -> None:
    folder = tmp_path / "folder"
    write_atomically(folder, lambda temporary: (temporary / "x").write_text("old") and None)

    def fail(*_: object) -> None:
        raise cause

    def write(temporary: Path) -> None:
        (temporary / "below").mkdir()
        (temporary / "below" / "x").write_text("new")
        if moment == "writing":
            fail()

    rename = Path.rename
    with monkeypatch.context() as patch:
        if moment == "syncing":
            patch.setattr(os, "fsync", fail)
        if moment == "naming":
            patch.setattr(Path, "rename", lambda self, to: fail() if "saving" in self.name else rename(self, to))
        with pytest.raises(cause):
            write_atomically(folder, write)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (folder / "x").read_text() == "old"
    assert is_complete(folder)
    write_atomically(folder, lambda temporary: (temporary / "x").write_text("new") and None)
    assert (folder / "x").read_text() == "new"


def test_folders_of_other_programs_hold_no_list_of_ours(tmp_path: Path) -> None:
    write_atomically(tmp_path / "x", lambda folder: (folder / "a").write_text("a") and None, listed=False)
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["a"]
