from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi05_train.data.loading.shard_cache import ShardCache
from pi05_train.data.sources.index import Shard
from pi05_train.errors import UserError

CONTENT = os.urandom(10_000)
SHARD = Shard("shard-000000.tar", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def cache(folder: Path, *shards: Shard, limit: int = 10**6) -> ShardCache:
    made = ShardCache(folder, shards or (SHARD,), limit)
    made.prepare()
    return made


def part(start: int, length: int) -> tuple[int, int, int]:
    return start, length, zlib.crc32(CONTENT[start : start + length])


def test_what_was_written_is_there_for_every_process_and_nothing_else_is(tmp_path: Path) -> None:
    cache(tmp_path).write(SHARD, 4000, CONTENT[4000:5000])
    other = cache(tmp_path)
    assert other.read(SHARD, *part(4000, 1000)) == CONTENT[4000:5000]
    assert other.read(SHARD, *part(4000, 1001)) is None
    assert other.read(SHARD, *part(3000, 1000)) is None  # a hole
    assert other.read(SHARD, *part(9000, 1000)) is None  # beyond what was written


@given(cut=st.integers(0, 999), flip=st.integers(0, 999))
def test_a_sample_written_in_part_or_spoiled_is_not_there_until_it_is_written_again(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flip: int
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    made = cache(folder)
    made.write(SHARD, 4000, CONTENT[4000 : 4000 + cut])
    assert made.read(SHARD, *part(4000, 1000)) is None
    made.write(SHARD, 4000, CONTENT[4000:5000])
    content = bytearray((folder / SHARD.sha256).read_bytes())
    content[4000 + flip] ^= 1
    (folder / SHARD.sha256).write_bytes(content)
    assert made.read(SHARD, *part(4000, 1000)) is None
    made.write(SHARD, 4000, CONTENT[4000:5000])
    assert made.read(SHARD, *part(4000, 1000)) == CONTENT[4000:5000]


def shards(count: int, size: int) -> list[Shard]:
    """Of several sources that use the same names."""
    return [
        Shard(f"shard-{number % 3:06d}.tar", size, hashlib.sha256(str(number).encode()).hexdigest())
        for number in range(count)
    ]


def test_shards_of_one_name_are_not_taken_for_each_other(tmp_path: Path) -> None:
    first, _, _, other = shards(4, 10_000)
    assert first.name == other.name
    made = cache(tmp_path, first, other)
    made.write(first, 0, CONTENT[:100])
    assert made.read(other, *part(0, 100)) is None


def test_the_same_shards_are_kept_below_the_limit_whatever_their_order(tmp_path: Path) -> None:
    many = shards(40, 1000)
    kept = []
    for order in (many, many[::-1]):
        folder = tmp_path / str(len(kept))
        made = cache(folder, *order, limit=12_500)
        for shard in order:
            made.write(shard, 0, b"x")
        kept.append({path.name for path in folder.iterdir()})
        assert made.bytes == 12_000
    assert kept[0] == kept[1]
    assert len(kept[0]) == 12


def test_files_of_other_runs_make_room_those_unused_longest_first(tmp_path: Path) -> None:
    old, new = shards(2, 8192)
    before = cache(tmp_path, old, new, limit=10**6)
    for age, shard in enumerate((new, old)):
        before.write(shard, 0, os.urandom(8192))
        os.utime(tmp_path / shard.sha256, (10**9 - age, 10**9 - age))
    cache(tmp_path, SHARD, limit=10_000 + 8192)
    assert [path.name for path in tmp_path.iterdir()] == [new.sha256]
    cache(tmp_path, SHARD, limit=10_000)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_small_is_refused_at_the_start(tmp_path: Path) -> None:
    huge = Shard("shard-000000.tar", 10**18, "0" * 64)
    with pytest.raises(UserError, match=r"GB free, expected 1000000000\.0 GB .*lower data\.cache_gigabytes"):
        cache(tmp_path, huge, limit=10**19)


def test_a_disk_that_fills_up_later_costs_speed_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = cache(tmp_path)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    for start in (0, 1000):
        made.write(SHARD, start, CONTENT[start : start + 1000])
        assert made.read(SHARD, *part(start, 1000)) is None
    assert capsys.readouterr().err.count("No space left on device; shards are read without a cache") == 1


def write_and_read(folder: Path, seed: int) -> int:
    """Writes and reads samples in an order of its own; how many came back, each of them right."""
    made = ShardCache(folder, [SHARD], 10**6)
    order, found = list(range(0, 10_000, 100)), 0
    random.Random(seed).shuffle(order)
    for start in order * 5:
        if (content := made.read(SHARD, *part(start, 100))) is None:
            made.write(SHARD, start, CONTENT[start : start + 100])
        else:
            assert content == CONTENT[start : start + 100]
            found += 1
    return found


def test_many_processes_may_write_one_file(tmp_path: Path) -> None:
    """Failure test 14: two ranks and a second job on the same shard."""
    cache(tmp_path)
    with multiprocessing.get_context("fork").Pool(4) as pool:
        found = pool.starmap(write_and_read, [(tmp_path, seed) for seed in range(4)])
    assert min(found) >= 400
    assert (tmp_path / SHARD.sha256).read_bytes() == CONTENT
