"""Which rows of an index pass a filter: found once, in blocks, and kept as one bit per row.

Shapes: B runs of `_BITS` rows, K bytes of a run; N rows of a block, E episodes.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pi05_train.data.cache import Cache
from pi05_train.data.permutation import digest
from pi05_train.data.sources.index import FAILED, HELDOUT, RECORD, Index
from pi05_train.errors import UserError
from pi05_train.samples.mixture_config import FilterConfig

_BITS = 512
"""Rows whose bits are counted together: one look-up unpacks that many."""
_GROUPS_TOGETHER = 16
"""Parts of `index.parquet` that are read at once."""
_FORMAT = 1
"""To be raised when the same index and filter would give other files."""
_FRAME_BITS, _FRAME_MASK = np.uint64(32), np.uint64(2**32 - 1)
_MERGED_TOGETHER = 2**20
"""Episodes that wait before they are sorted in among the others, so that each is sorted a few times only."""


class Rows:
    """The rows that pass, ascending: `rows[i]` is the i-th, `np.asarray(rows)` all of them.

    Maps the bits from a file, 12.5 MB for 10**8 rows, and pickles as its path: worker processes share it.
    """

    def __init__(self, path: Path, *, episodes: int, environments: int) -> None:
        self.path = path
        self.episodes = episodes
        """How many different ones the rows are of."""
        self.environments = environments
        self._bits_BK = np.load(path, mmap_mode="r").reshape(-1, _BITS // 8)
        counts_B = np.bitwise_count(self._bits_BK.view("<u8")).sum(axis=1)
        self._ends_B = np.cumsum(counts_B, dtype=np.int64)

    @property
    def fingerprint(self) -> str:
        """sha256 of which rows of the index these are."""
        return hashlib.sha256(np.ascontiguousarray(self._bits_BK).data).hexdigest()

    def __len__(self) -> int:
        return int(self._ends_B[-1])

    def __getitem__(self, place: int) -> int:
        if not 0 <= place < len(self):
            raise IndexError(f"row {place} of {len(self)}")
        run = int(np.searchsorted(self._ends_B, place, side="right"))
        set_bits = np.flatnonzero(np.unpackbits(self._bits_BK[run]))
        # That many rows have passed by the end of the run: count back from there.
        return run * _BITS + int(set_bits[place - int(self._ends_B[run])])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("the rows are not stored as numbers")
        return np.flatnonzero(np.unpackbits(self._bits_BK)).astype(np.int64 if dtype is None else dtype)

    def __reduce__(self) -> tuple[object, ...]:
        return _reopen, (self.path, self.episodes, self.environments)


def environments(index: Index, rows: Rows) -> set[str]:
    """Of these rows."""
    names = pq.read_table(index.folder / "index.parquet", columns=["environment_id"]).column(0)
    return set(names.take(np.asarray(rows)).unique().to_pylist())


def _reopen(path: Path, episodes: int, environments: int) -> Rows:
    return Rows(path, episodes=episodes, environments=environments)


def filter_rows(source: str, index: Index, filters: FilterConfig, cache: Cache) -> Rows:
    """The rows of an opened index that pass; the filter that leaves none is named in the UserError.

    They are looked for once per content of the source and filter, and remembered in the cache; memory beside the bits
    follows the number of different episodes and environments, never the number of rows.
    """
    meant = json.dumps([_FORMAT, index.fingerprint, asdict(filters)], sort_keys=True)
    name = f"rows/{hashlib.sha256(meant.encode()).hexdigest()}"
    facts = cache.read_facts(f"{name}.json")
    path = None if facts is None else cache.read(f"{name}.npy", facts["sha256"])
    if facts is None or path is None:
        bits, facts = _find(source, index, filters)
        buffer = io.BytesIO()
        np.save(buffer, bits)
        facts["sha256"] = hashlib.sha256(buffer.getbuffer()).hexdigest()
        path = cache.write(f"{name}.npy", buffer.getvalue())
        cache.write_facts(f"{name}.json", facts)
    return Rows(path, episodes=facts["episodes"], environments=facts["environments"])


@dataclass(frozen=True)
class _Block:
    """Some consecutive rows of an index."""

    first: int
    records: NDArray[np.void]
    environment_N: NDArray[np.int32]
    """Per row, its place in `environments`."""
    environments: list[str]

    def names(self, passed: NDArray[np.bool_]) -> set[str]:
        """The environments of the rows that passed."""
        return {self.environments[number] for number in np.unique(self.environment_N[passed]).tolist()}


_Test = tuple[str, Callable[[_Block], NDArray[np.bool_]]]
"""What is said of it where it leaves nothing, and which rows of a block pass."""


def _find(source: str, index: Index, filters: FilterConfig) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """The bits, padded with zeros to whole runs of `_BITS`, and the facts that `Rows` needs."""
    bits = np.zeros(-(-len(index) // _BITS) * (_BITS // 8), np.uint8)
    tests = _tests(filters, index)
    left = [len(index), *(0 for _ in tests)]
    episodes, environments = Episodes(), set[str]()
    for block in _blocks(index):
        passed = np.ones(len(block.records), np.bool_)
        for number, (_, test) in enumerate(tests):
            passed &= test(block)
            left[number + 1] += int(np.count_nonzero(passed))
        assert block.first % 8 == 0
        packed = np.packbits(passed)
        bits[block.first // 8 :][: len(packed)] = packed
        episodes.add(block.records[passed])
        environments |= block.names(passed)
    for (what, _), before, after in zip(tests, left, left[1:], strict=False):
        _check_some_left(source, what, before, after)
    return bits, {"episodes": len(episodes), "environments": len(environments)}


def _tests(filters: FilterConfig, index: Index) -> list[_Test]:
    """In the order in which a person meets them; a later one may look at what the earlier ones leave."""
    tests: list[_Test] = [(f"split={filters.split}", partial(_of_split, filters.split))]
    if filters.success_only:
        tests.append(("success_only=true", lambda block: block.records["flags"] & FAILED == 0))
    if filters.max_episode_steps is not None:
        episodes = Episodes()
        for block in _blocks(index):
            episodes.add(block.records)
        what = f"max_episode_steps={filters.max_episode_steps}"
        tests.append((what, partial(_of_short_episodes, episodes, filters.max_episode_steps)))
    if filters.environments is not None:
        found = set[str]()
        for block in _blocks(index):
            found |= block.names(np.logical_and.reduce([test(block) for _, test in tests]))
        ranked = sorted(found, key=lambda name: (digest("environment", name), name))
        kept = frozenset(ranked[: filters.environments])
        tests.append((f"environments={filters.environments}", partial(_of_environments, kept)))
    return tests


def _of_split(split: str, block: _Block) -> NDArray[np.bool_]:
    heldout: NDArray[np.bool_] = block.records["flags"] & HELDOUT > 0
    return heldout if split == "heldout" else ~heldout


def _of_short_episodes(episodes: Episodes, most: int, block: _Block) -> NDArray[np.bool_]:
    return episodes.steps(block.records["episode"]) <= most


def _of_environments(kept: frozenset[str], block: _Block) -> NDArray[np.bool_]:
    return np.array([name in kept for name in block.environments], np.bool_)[block.environment_N]


def _blocks(index: Index) -> Iterator[_Block]:
    """All rows, read from the files and not through the map: pages of a map would stay in this process's memory."""
    first = 0
    with pq.ParquetFile(index.folder / "index.parquet", read_dictionary=["environment_id"]) as file:
        for group in range(0, file.num_row_groups, _GROUPS_TOGETHER):
            groups = range(group, min(group + _GROUPS_TOGETHER, file.num_row_groups))
            table = file.read_row_groups(groups, columns=["environment_id"], use_threads=False)
            column = table.unify_dictionaries()[0].combine_chunks()
            offset = index.records.offset + first * RECORD.itemsize
            records = np.fromfile(index.folder / "index.npy", RECORD, len(column), offset=offset)
            yield _Block(first, records, column.indices.to_numpy(), column.dictionary.to_pylist())
            first += len(column)
    assert first == len(index)


class Episodes:
    """The longest frame number of each episode, from records in any order; memory follows the number of episodes."""

    def __init__(self) -> None:
        self._sorted_E = np.zeros(0, np.uint64)
        self._new: list[NDArray[np.uint64]] = []

    def add(self, records: NDArray[np.void]) -> None:
        """Take in a block."""
        self._new.append(_longest(records["episode"].astype(np.uint64) << _FRAME_BITS | records["frame"]))
        if sum(map(len, self._new)) > max(_MERGED_TOGETHER, len(self._sorted_E)):
            self._merge()

    def __len__(self) -> int:
        self._merge()
        return len(self._sorted_E)

    def steps(self, episodes_N: NDArray[np.uint32]) -> NDArray[np.int64]:
        """The number of steps, by the frames seen, of episodes that have been added."""
        self._merge()
        after = (episodes_N.astype(np.uint64) + np.uint64(1)) << _FRAME_BITS
        return (self._sorted_E[np.searchsorted(self._sorted_E, after) - 1] & _FRAME_MASK).astype(np.int64) + 1

    def _merge(self) -> None:
        if self._new:
            self._sorted_E, self._new = _longest(np.concatenate([self._sorted_E, *self._new])), []


def _longest(episode_frame_N: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Of numbers with the episode in the high and the frame in the low half: each episode's largest, ascending."""
    ordered = np.sort(episode_frame_N)
    last = np.ones(len(ordered), np.bool_)
    last[:-1] = ordered[1:] >> _FRAME_BITS != ordered[:-1] >> _FRAME_BITS
    return ordered[last]


def _check_some_left(source: str, what: str, before: int, after: int) -> None:
    if not after:
        raise UserError(
            f"source {source}, filter {what}",
            got="no samples left",
            expected=f"some of the {before} that came so far",
            do="loosen the filter or disable the source",
        )
