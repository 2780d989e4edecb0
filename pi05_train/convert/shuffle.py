"""The second pass of a conversion: the finished units' samples, shuffled by a hash of their keys, into shards.

No sample is parsed on the way: its blocks are copied. The order depends on the source's name and the keys alone, so
the shards do not depend on who converted which unit when.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import fields
from io import BufferedReader, BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi05_train.convert.source import Dropped, EpisodeRecord, ForeignSource, Unit
from pi05_train.convert.units import Job, sort_key, unit_samples, written_whole
from pi05_train.errors import UserError
from pi05_train.samples.schema import Sample
from pi05_train.samples.shards import end_of_archive, parse_sample

_OPEN_FILES = 128


def shuffled_entries(job: Job, units: Sequence[Unit]) -> NDArray[np.void]:
    """The entries of all finished units in the order of the shards; refuses (UserError) a key that comes twice."""
    entries = np.concatenate([np.load(job.file(unit, ".npy")) for unit in units])
    entries = entries[np.lexsort((entries["low"], entries["high"]))]
    same = (entries["high"][1:] == entries["high"][:-1]) & (entries["low"][1:] == entries["low"][:-1])
    if same.any():
        with BlockReader(job) as blocks:
            key, _ = _members(blocks.read(entries[int(np.argmax(same))]))
        raise UserError(
            f"sample {key} of source {job.options.name}",
            got="its key twice",
            expected="unique keys",
            do="correct the data set or its format module",
        )
    return entries


class BlockReader:
    """Reads samples' blocks out of the finished units' files, of which it keeps some open."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._files: OrderedDict[int, BufferedReader] = OrderedDict()

    def __enter__(self) -> BlockReader:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def read(self, entry: np.void) -> bytes:
        number = int(entry["unit"])
        if number not in self._files:
            if len(self._files) == _OPEN_FILES:
                self._files.popitem(last=False)[1].close()
            self._files[number] = self._job.file(Unit(number, ""), ".blocks").open("rb")
        self._files.move_to_end(number)
        self._files[number].seek(int(entry["offset"]))
        return self._files[number].read(int(entry["length"]))


def write_shuffled(
    job: Job, entries: NDArray[np.void], samples_per_shard: int, report: Callable[[int, int, str], None]
) -> list[Path]:
    """Write the shards into the working folder, except those that are there already; their paths in order."""
    starts = [*range(0, len(entries), samples_per_shard), len(entries)]
    paths: list[Path] = []
    with BlockReader(job) as blocks:
        for number, (start, stop) in enumerate(pairwise(starts)):
            paths.append(job.working / f"shard-{number:06d}.tar")
            if not paths[-1].is_file():
                with written_whole(paths[-1]) as file:
                    for entry in entries[start:stop]:
                        file.write(blocks.read(entry))
                    file.write(end_of_archive(file.tell()))
            report(number + 1, len(starts) - 1, "shards")
    return paths


def check_round_trip(
    job: Job, source: ForeignSource, entries: NDArray[np.void], shards: Sequence[Path], samples_per_shard: int
) -> int:
    """Compare one sample in a hundred, at least three, with what the source yields again; how many were compared.

    They are the first samples of units that a hash chooses, so that few units are read a second time. Refuses
    (UserError naming the key) the first difference.
    """
    wanted = min(len(entries), max(3, -(-len(entries) // 100)))
    chosen = sorted(
        source.units, key=lambda unit: hashlib.sha256(f"check/{job.options.name}/{unit.number}".encode()).digest()
    )
    ends = np.cumsum(entries["length"], dtype=np.int64)
    checked = 0
    for unit in chosen:
        for again in unit_samples(source, unit, job.options):
            if checked == wanted:
                return checked
            if not isinstance(again, Dropped):
                row = _row(entries, sort_key(source.card, again.key))
                shard, first = shards[row // samples_per_shard], row - row % samples_per_shard
                offset = ends[row] - entries["length"][row] - (ends[first - 1] if first else 0)
                with shard.open("rb") as file:
                    file.seek(int(offset))
                    key, members = _members(file.read(int(entries["length"][row])))
                _compare(parse_sample(members) if isinstance(again, Sample) else EpisodeRecord(key, members), again)
                checked += 1
    return checked


def _row(entries: NDArray[np.void], place: tuple[int, int]) -> int:
    high, low = (np.uint64(part) for part in place)
    row = int(np.searchsorted(entries["high"], high))
    while row < len(entries) and entries["high"][row] == high and entries["low"][row] != low:
        row += 1
    return min(row, len(entries) - 1)


def _members(blocks: bytes) -> tuple[str, dict[str, bytes]]:
    """(Key, extension to content) of the only sample in these blocks."""
    key, members = "", dict[str, bytes]()
    with tarfile.open(fileobj=BytesIO(blocks + end_of_archive(len(blocks))), mode="r:") as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            key, _, extension = member.name.partition(".")
            members[extension] = file.read()
    return key, members


def _compare(written: Sample | EpisodeRecord, again: Sample | EpisodeRecord) -> None:
    for field in fields(again):
        left, right = getattr(written, field.name), getattr(again, field.name)
        if not _equal(left, right):
            raise UserError(
                f"round-trip check, sample {again.key}, {field.name}",
                got=f"{_short(left)} in the shard (sample {written.key})",
                expected=f"{_short(right)} as in the source",
                do="convert into an empty folder; if that does not help, the source changes while it is read",
            )


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right)
    return bool(type(left) is type(right) and left == right)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
