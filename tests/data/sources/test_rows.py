from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pi05_train.data.cache import Cache
from pi05_train.data.permutation import digest
from pi05_train.data.sources import rows as rows_module
from pi05_train.data.sources.index import FAILED, HELDOUT, RECORD, Index, write_index
from pi05_train.data.sources.rows import Episodes, Rows, filter_rows
from pi05_train.errors import UserError
from pi05_train.samples.mixture_config import FilterConfig

SAMPLES = 9000


@pytest.fixture(autouse=True)
def _several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "_GROUPS_TOGETHER", 2)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Two blocks of rows, one of them of two parts; sparse episode numbers, and environments that few rows are of."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "shard-000000.tar").write_bytes(bytes(1024))
    random = np.random.default_rng(0)
    records = np.zeros(SAMPLES, RECORD)
    records["episode"] = (2**32 - 1) // random.integers(1, 300, SAMPLES)
    records["frame"] = random.integers(0, 5, SAMPLES) * (1 + records["episode"] % 3)
    records["flags"] = random.choice([0, HELDOUT, FAILED, HELDOUT | FAILED], SAMPLES)
    rooms = [f"room {int(number)}" for number in random.geometric(0.2, SAMPLES)]
    strings = {"key": [str(i) for i in range(SAMPLES)], "environment_id": rooms, "task": [""] * SAMPLES}
    write_index(folder, [folder / "shard-000000.tar"], records, strings)
    return Index.open(folder)


def slowly(index: Index, rooms: list[str], filters: FilterConfig) -> list[int]:
    """The same rows, one record after the other."""
    episodes, frames, flags = (index.records[name].tolist() for name in ("episode", "frame", "flags"))
    kept = [i for i in range(SAMPLES) if bool(flags[i] & HELDOUT) == (filters.split == "heldout")]
    if filters.success_only:
        kept = [i for i in kept if not flags[i] & FAILED]
    if filters.max_episode_steps is not None:
        longest: dict[int, int] = {}
        for episode, frame in zip(episodes, frames, strict=True):
            longest[episode] = max(longest.get(episode, 0), frame + 1)
        kept = [i for i in kept if longest[episodes[i]] <= filters.max_episode_steps]
    if filters.environments is not None:
        ranked = sorted({rooms[i] for i in kept}, key=lambda name: (digest("environment", name), name))
        kept = [i for i in kept if rooms[i] in ranked[: filters.environments]]
    return kept


@pytest.mark.parametrize("split", ["train", "heldout"])
@pytest.mark.parametrize("success_only", [False, True])
@pytest.mark.parametrize("max_episode_steps", [None, 10])
@pytest.mark.parametrize("environments", [None, 1, 5, 1000])
def test_the_rows_are_those_that_a_look_at_each_record_finds(
    index: Index,
    tmp_path: Path,
    split: str,
    success_only: bool,
    max_episode_steps: int | None,
    environments: int | None,
) -> None:
    filters = FilterConfig(split, success_only, max_episode_steps, environments)
    rooms = pq.read_table(index.folder / "index.parquet")["environment_id"].to_pylist()
    expected = slowly(index, rooms, filters)
    found = filter_rows("toy", index, filters, Cache(tmp_path))
    assert np.asarray(found).tolist() == expected
    assert [found[place] for place in range(len(found))] == expected
    assert found.episodes == len({int(index.records[i]["episode"]) for i in expected})
    assert found.environments == len({rooms[i] for i in expected})


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(passed=st.lists(st.booleans(), min_size=1, max_size=2000).filter(any), runs=st.integers(1, 600))
def test_any_pattern_of_rows_is_looked_up_one_by_one(tmp_path: Path, passed: list[bool], runs: int) -> None:
    pattern = np.repeat(passed, runs)[:5000]
    if not pattern.any():
        pattern[-1] = True
    bits = np.zeros(10 * rows_module._BITS, np.bool_)
    bits[: len(pattern)] = pattern
    np.save(tmp_path / "bits.npy", np.packbits(bits))
    rows = Rows(tmp_path / "bits.npy", episodes=1, environments=1)
    expected = np.flatnonzero(pattern)
    assert len(rows) == len(expected)
    np.testing.assert_array_equal(np.asarray(rows), expected)
    assert [rows[place] for place in range(0, len(rows), 97)] == expected[::97].tolist()
    assert rows[len(rows) - 1] == expected[-1]
    for outside in (-1, len(rows)):
        with pytest.raises(IndexError):
            rows[outside]


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Sources whose rows were looked for."""
    names: list[str] = []
    really = rows_module._find

    def find(source: str, index: Index, filters: FilterConfig) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        names.append(source)
        return really(source, index, filters)

    monkeypatch.setattr(rows_module, "_find", find)
    return names


def test_rows_are_looked_for_once_per_content_and_filter(index: Index, tmp_path: Path, searched: list[str]) -> None:
    def found(filters: FilterConfig) -> tuple[list[int], int, int]:
        rows = filter_rows("toy", index, filters, Cache(tmp_path))
        return list(rows), rows.episodes, rows.environments

    loose, strict = FilterConfig(), FilterConfig(success_only=True)
    assert found(loose) == found(loose) != found(strict)
    assert len(searched) == 2


@pytest.mark.parametrize("suffix", [".npy", ".json"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:-20] + bytes([content[-20] ^ 1]) + content[-19:],
        lambda _: b"",
        lambda _: None,
    ],
    ids=["cut", "flipped", "empty", "gone"],
)
def test_damaged_memories_are_made_again(
    index: Index, tmp_path: Path, searched: list[str], suffix: str, damage: Callable[[bytes], bytes | None]
) -> None:
    cache, filters = Cache(tmp_path), FilterConfig()
    first = filter_rows("toy", index, filters, cache)
    expected = [len(first), first.episodes, first.environments, *first]
    path = first.path.with_suffix(suffix)
    whole = path.read_bytes()
    path.unlink()
    if (content := damage(whole)) is not None:
        path.write_bytes(content)
    again = filter_rows("toy", index, filters, cache)
    assert [len(again), again.episodes, again.environments, *again] == expected
    assert len(searched) == 2
    assert path.read_bytes() == whole


def test_a_filter_that_leaves_nothing_is_named_each_time(index: Index, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(UserError, match=r"source toy, filter max_episode_steps=0: got no samples left"):
            filter_rows("toy", index, FilterConfig(max_episode_steps=0, environments=3), Cache(tmp_path))


def test_another_process_maps_the_same_files_and_is_sent_none_of_them(index: Index, tmp_path: Path) -> None:
    rows = filter_rows("toy", index, FilterConfig(), Cache(tmp_path))
    sent = pickle.dumps((index, rows))
    assert len(sent) < 1500
    copied = pickle.loads(sent)
    assert isinstance(copied[0].records, np.memmap)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        records, everything, numbers = pool.apply(_what_it_sees, (index, rows))
    np.testing.assert_array_equal(records, index.records)
    assert everything == list(rows)
    assert numbers == (rows.episodes, rows.environments, index.fingerprint)


def _what_it_sees(index: Index, rows: Rows) -> tuple[NDArray[np.void], list[int], tuple[int, int, str]]:
    return np.array(index.records), list(rows), (rows.episodes, rows.environments, index.fingerprint)


@settings(max_examples=50, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 2**32 - 1) | st.integers(0, 9), st.integers(0, 2**32 - 1)), min_size=1),
    blocks=st.integers(1, 5),
    together=st.integers(0, 20),
)
def test_the_longest_frame_of_every_episode_is_kept(pairs: list[tuple[int, int]], blocks: int, together: int) -> None:
    records = np.zeros(len(pairs), RECORD)
    records["episode"], records["frame"] = np.array(pairs, np.uint32).T
    episodes = Episodes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "_MERGED_TOGETHER", together)
        for block in np.array_split(records, blocks):
            episodes.add(block)
    longest: dict[int, int] = {}
    for episode, frame in pairs:
        longest[episode] = max(longest.get(episode, 0), frame)
    assert len(episodes) == len(longest)
    assert episodes.steps(records["episode"]).tolist() == [longest[episode] + 1 for episode, _ in pairs]
