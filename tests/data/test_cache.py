from __future__ import annotations

import errno
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pi05_train.data import cache as cache_module
from pi05_train.data.cache import Cache
from pi05_train.errors import UserError

LONG_AGO = 1_000_000_000 * 10**9


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(b"before")
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    return path


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files that were read to be hashed."""
    paths: list[Path] = []
    really = cache_module._sha256
    monkeypatch.setattr(cache_module, "_sha256", lambda path: paths.append(path) or really(path))
    return paths


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_it_is_where_the_configuration_or_the_machine_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert Cache("here").folder == Path("here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Cache().folder == tmp_path / "pi05_train"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Cache().folder == tmp_path / ".cache" / "pi05_train"


def test_a_file_is_there_as_written_or_not_there(cache: Cache) -> None:
    assert cache.read("a/b", sha256(b"content")) is None
    path = cache.write("a/b", b"content")
    assert cache.read("a/b", sha256(b"content")) == path
    assert path.read_bytes() == b"content"
    for damaged in (b"contend", b"cont", b""):
        path.write_bytes(damaged)
        assert cache.read("a/b", sha256(b"content")) is None


def test_facts_come_back_unless_a_single_byte_of_them_has_changed(cache: Cache) -> None:
    facts = {"episodes": 12, "names": ["ä", "b"]}
    assert cache.read_facts("facts.json") is None
    cache.write_facts("facts.json", facts)
    assert cache.read_facts("facts.json") == facts
    path = cache.folder / "facts.json"
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert cache.read_facts("facts.json") in (None, facts)
        path.write_bytes(whole[:place])
        assert cache.read_facts("facts.json") in (None, facts)


@pytest.mark.parametrize("content", [b"[]", b"{}", b"null", b'{"facts": {}, "sha256": 3}', b"\xff"])
def test_what_was_never_written_by_a_cache_is_not_believed(cache: Cache, content: bytes) -> None:
    cache.write("facts.json", content)
    assert cache.read_facts("facts.json") is None


def test_many_writers_of_a_file_leave_one_whole_file(cache: Cache) -> None:
    content = bytes(10**6)
    with ThreadPoolExecutor(8) as pool:
        for path in pool.map(lambda _: cache.write("same", content), range(32)):
            assert cache.read("same", sha256(content)) == path
    assert [path.name for path in cache.folder.iterdir()] == ["same"]


def test_a_folder_that_cannot_be_written_to_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cache .*: got File exists on writing a, .*set data\.cache"):
        Cache(tmp_path / "file").write("a", b"")


def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left on device on writing a"):
        cache.write("a", b"content")
    assert list(cache.folder.iterdir()) == []


def test_a_file_is_hashed_once_for_all_processes(cache: Cache, large: Path, hashed: list[Path]) -> None:
    assert [cache.sha256(large), Cache(cache.folder).sha256(large)] == [sha256(b"before")] * 2
    assert hashed == [large]


def test_a_changed_replaced_or_touched_file_is_hashed_again(cache: Cache, large: Path, hashed: list[Path]) -> None:
    cache.sha256(large)
    large.write_bytes(b"after!")
    os.utime(large, ns=(LONG_AGO + 1, LONG_AGO + 1))
    assert cache.sha256(large) == sha256(b"after!")
    other = large.with_name("other")
    other.write_bytes(b"anew!!")
    os.utime(other, ns=(LONG_AGO + 1, LONG_AGO + 1))
    other.replace(large)
    assert cache.sha256(large) == sha256(b"anew!!")
    large.write_bytes(b"longer!")
    os.utime(large, ns=(LONG_AGO + 1, LONG_AGO + 1))
    assert cache.sha256(large) == sha256(b"longer!")
    assert len(hashed) == 4


def test_equal_files_in_two_places_do_not_take_each_others_hash(cache: Cache, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "index.npy").write_bytes(folder.encode())
        os.utime(tmp_path / folder / "index.npy", ns=(LONG_AGO, LONG_AGO))
    for folder in ("a", "b", "a", "b"):
        assert cache.sha256(tmp_path / folder / "index.npy") == sha256(folder.encode())


def test_a_file_that_has_only_just_changed_may_change_again_unseen_and_is_not_remembered(
    cache: Cache, large: Path, hashed: list[Path]
) -> None:
    os.utime(large)
    for _ in range(2):
        assert cache.sha256(large) == sha256(b"before")
    assert hashed == [large, large]


def test_a_damaged_memory_of_a_hash_is_made_again(cache: Cache, large: Path, hashed: list[Path]) -> None:
    cache.sha256(large)
    (remembered,) = cache.folder.rglob("*.json")
    remembered.write_text(remembered.read_text().replace(sha256(b"before"), sha256(b"after")))
    assert cache.sha256(large) == sha256(b"before")
    assert len(hashed) == 2
