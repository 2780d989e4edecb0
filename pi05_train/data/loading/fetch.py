"""The bytes of many samples at once: neighbours in one request, remote ones ahead of their use."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise

from pi05_train.data.loading.shard_cache import ShardCache
from pi05_train.data.order.mixture import Mixture
from pi05_train.data.sources.index import Shard
from pi05_train.samples.store import REQUESTS_AT_ONCE, Store

_LARGEST_GAP = 2**17
"""Bytes between two samples that are rather read than asked around."""


@dataclass(frozen=True)
class _Wanted:
    """A sample, and its place in the answer."""

    number: int
    store: Store
    shard: Shard
    start: int
    length: int
    crc32: int

    @property
    def end(self) -> int:
        return self.start + self.length

    def fits(self, content: bytes) -> bool:
        return len(content) == self.length and zlib.crc32(content) == self.crc32


class Fetcher:
    """Raw bytes of samples of an opened mixture; picklable, each process makes its own threads."""

    def __init__(self, mixture: Mixture, cache: ShardCache | None = None) -> None:
        self._mixture = mixture
        self._cache = cache

    def __reduce__(self) -> tuple[type[Fetcher], tuple[Mixture, ShardCache | None]]:
        return Fetcher, (self._mixture, self._cache)

    def start(self, samples: Sequence[tuple[str, int]]) -> Callable[[], list[bytes]]:
        """Begin to fetch these samples (source, filtered row) and return what waits for them.

        Bytes come as they are stored, in the order asked for; whoever uses them compares their checksums. Local files
        are read only when they are waited for. Raises UserError, when waited for, for a file that cannot be read.
        """
        waits: list[Callable[[], list[tuple[int, bytes]]]] = []
        for run in _runs([self._wanted(number, *sample) for number, sample in enumerate(samples)]):
            if run[0].store.remote:
                waits.append(self._threads.submit(self._fetch, run).result)
            else:
                waits.append(partial(_read_run, run))

        def wait() -> list[bytes]:
            contents = [b""] * len(samples)
            for number, content in (found for wait in waits for found in wait()):
                contents[number] = content
            return contents

        return wait

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="fetch")

    def _wanted(self, number: int, source: str, row: int) -> _Wanted:
        index = self._mixture.indexes[source]
        record = index.records[self._mixture.rows[source][row]]
        shard = index.shards[int(record["shard"])]
        start, length, crc32 = int(record["offset"]), int(record["length"]), int(record["crc32"])
        return _Wanted(number, index.store, shard, start, length, crc32)

    def _fetch(self, run: list[_Wanted]) -> list[tuple[int, bytes]]:
        """A run from the cache as far as it is there, the rest from the store and into the cache."""
        found: list[tuple[int, bytes]] = []
        missing: list[_Wanted] = []
        for wanted in run:
            content = self._cached(wanted)
            if content is None:
                missing.append(wanted)
            else:
                found.append((wanted.number, content))
        for wanted, (number, content) in zip(missing, _read_run(missing), strict=True):
            if not wanted.fits(content):  # once more: what is wrong now may have been spoiled on the way
                content = wanted.store.read(wanted.shard.name, wanted.start, wanted.length)
            if self._cache and wanted.fits(content):
                self._cache.write(wanted.shard, wanted.start, content)
            found.append((number, content))
        return found

    def _cached(self, wanted: _Wanted) -> bytes | None:
        if self._cache is None:
            return None
        return self._cache.read(wanted.shard, wanted.start, wanted.length, wanted.crc32)


def _read_run(run: list[_Wanted]) -> list[tuple[int, bytes]]:
    """The samples of a run, in one read."""
    if not run:
        return []
    first = run[0]
    content = first.store.read(first.shard.name, first.start, run[-1].end - first.start)
    return [(one.number, content[one.start - first.start : one.end - first.start]) for one in run]


def _runs(wanted: list[_Wanted]) -> Iterator[list[_Wanted]]:
    """Samples that stand close together in one shard; one that is asked for twice is in its run twice."""
    ordered = sorted(wanted, key=lambda one: (one.store.where, one.shard.name, one.start))
    run = ordered[:1]
    for before, one in pairwise(ordered):
        same = (before.store.where, before.shard.name) == (one.store.where, one.shard.name)
        if not (same and one.start - before.end <= _LARGEST_GAP):
            yield run
            run = []
        run.append(one)
    if run:
        yield run
