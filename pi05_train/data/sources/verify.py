"""Every byte of a source against its index: what is damaged, missing or too many, one problem at a time."""

from __future__ import annotations

import hashlib
import json
import mmap
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi05_train.data.parallel import in_order
from pi05_train.data.sources.index import FAILED, HELDOUT, RECORD, Index, Shard, build_index, read_keys
from pi05_train.errors import UserError
from pi05_train.samples.address import open_store
from pi05_train.samples.card import SourceCard
from pi05_train.samples.schema import Sample
from pi05_train.samples.shards import check_sample, parse_sample, split_members
from pi05_train.samples.store import Folder, Store, local_copy

Report = Callable[[int, int, str], None]
"""(shards done, of how many, which)."""
_INDEX_FILES = ("index.npy", "index.parquet")


@dataclass(frozen=True)
class Problem:
    """One thing that is not as indexed."""

    file: str
    """Name of the shard or index file."""
    key: str
    """The sample, or "" where the whole file is meant."""
    what: str

    def __str__(self) -> str:
        return f"{self.file}{f', sample {self.key}' if self.key else ''}: {self.what}"


def verify(
    where: Path | str, card: SourceCard | None = None, *, workers: int = 1, report: Report | None = None
) -> list[Problem]:
    """What is wrong with the source in a folder or at an address, in the shards' order; empty: all is as indexed.

    Every shard's size and sha256, every sample's checksum, members and index columns, what `card` declares, the index
    files themselves, and in a folder shards that the index does not know. A remote shard is copied to this machine for
    as long as it is looked at. Refuses (UserError) only a source without a readable `index.json`.
    """
    store = open_store(str(where))
    content = _recorded(store)
    shards = [Shard(**shard) for shard in content["shards"]]
    with TemporaryDirectory() as folder:
        scratch = Path(folder)
        index = scratch if store.remote else Path(where)
        if store.remote:
            for name in _INDEX_FILES:
                store.copy(name, index / name)
        problems = [
            Problem(name, "", "missing" if not (index / name).is_file() else "not the file that was indexed")
            for name in _INDEX_FILES
            if not (index / name).is_file() or _sha256(index / name) != content["files"][name]
        ]
        ends = None if problems else _ends(index, len(shards))
        jobs = [
            _Job(store, index, scratch, shard, card, None if ends is None else (ends[number], ends[number + 1]))
            for number, shard in enumerate(shards)
        ]
        for number, found in enumerate(in_order(_check_shard, jobs, workers)):
            problems += found
            if report:
                report(number + 1, len(jobs), shards[number].name)
    known = {shard.name for shard in shards}
    surplus = [] if store.remote else sorted(path.name for path in Path(where).glob("*.tar") if path.name not in known)
    return problems + [Problem(name, "", "a shard that the index does not know") for name in surplus]


def repair(folder: Path, problems: list[Problem]) -> str:
    """Write damaged index files anew from whole shards; returns a sentence about it.

    The rows keep their numbers and the source its fingerprint, so runs go on. Whatever else is damaged cannot be made
    up: UserError says what to do about it.
    """
    if not problems:
        return "nothing to repair"
    other = [problem for problem in problems if problem.file not in _INDEX_FILES]
    if other:
        raise UserError(
            f"source {folder}",
            got=f"{len(other)} problems in its shards, the first: {other[0]}",
            expected="whole shards, from which a damaged index can be written anew",
            do="restore those shards from a copy or convert the source again, and move shards away that do not belong "
            "here (a run passes over single damaged samples on its own and lists them in quarantine.jsonl)",
        )
    before = _content(_recorded(Folder(folder)))
    build_index(folder)
    assert _content(_recorded(Folder(folder))) == before, "whole shards give the index that they gave before"
    Index.open(folder)
    return f"wrote {' and '.join(problem.file for problem in problems)} anew; rows and fingerprint are as before"


@dataclass(frozen=True)
class _Job:
    store: Store
    index: Path
    """Folder of the index files."""
    scratch: Path
    shard: Shard
    card: SourceCard | None
    rows: tuple[int, int] | None
    """First row of the shard and the first after it; None when the index files are damaged: the whole shard is
    compared, not its samples."""


def _ends(folder: Path, shards: int) -> list[int]:
    """The first row of every shard, and the number of rows; rows stand in the order of their shards."""
    numbers = np.ascontiguousarray(np.load(folder / "index.npy", mmap_mode="r")["shard"])
    return [int(end) for end in np.searchsorted(numbers, np.arange(shards + 1))]


def _check_shard(job: _Job) -> list[Problem]:
    with local_copy(job.store, job.shard.name, job.scratch) as path:
        return _check_copy(job, path) if path.is_file() else [Problem(job.shard.name, "", "missing")]


def _check_copy(job: _Job, path: Path) -> list[Problem]:
    name = job.shard.name
    size = path.stat().st_size
    problems = []
    if size != job.shard.size_bytes:
        problems.append(Problem(name, "", f"{size} bytes, {job.shard.size_bytes} when it was indexed"))
    if job.rows is not None and size:
        problems += _check_samples(job, path, size, range(*job.rows))
    if not problems and _sha256(path) != job.shard.sha256:
        where = "somewhere" if job.rows is None else "outside its samples"
        problems.append(Problem(name, "", f"bytes have changed {where} since it was indexed"))
    return problems


def _check_samples(job: _Job, path: Path, size: int, rows: range) -> Iterator[Problem]:
    records = np.load(job.index / "index.npy", mmap_mode="r")
    assert records.dtype == RECORD
    keys = read_keys(job.index, rows)
    lost: list[str] = []
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for row, key in zip(rows, keys, strict=True):
            record = records[row]
            start, length = int(record["offset"]), int(record["length"])
            if start + length > size:
                lost.append(key)
                continue
            content = data[start : start + length]
            if zlib.crc32(content) != int(record["crc32"]):
                yield Problem(path.name, key, f"bytes {start} to {start + length} have changed since it was indexed")
            elif what := _fault(content, key, record, job.card):
                yield Problem(path.name, key, what)
    if lost:
        yield Problem(path.name, lost[0], f"cut off{f', and {len(lost) - 1} after it' if len(lost) > 1 else ''}")


def _fault(content: bytes, key: str, record: NDArray[np.void], card: SourceCard | None) -> str:
    """What is wrong with a sample whose bytes are those that were indexed, or ""."""
    try:
        sample = parse_sample(split_members(content))
        if card is not None:
            check_sample(sample, card)
    except UserError as error:
        return str(error)
    if _columns(sample) != (key, *(int(record[name]) for name in ("episode", "frame", "flags"))):
        return "key, episode, frame or flags differ from the index; index the source again"
    return ""


def _columns(sample: Sample) -> tuple[str, int, int, int]:
    flags = HELDOUT * (sample.split == "heldout") | FAILED * (not sample.success)
    return sample.key, sample.episode, sample.frame, flags


def _recorded(store: Store) -> dict[str, Any]:
    """`index.json`; UserError if it is absent or no index."""
    found, got = store.read_whole("index.json"), ""
    try:
        content = {} if found is None else json.loads(found)
        if {"shards", "files", "samples"} <= content.keys():
            return dict(content)
        got = "no such file" if found is None else "a file without its shards"
    except (ValueError, AttributeError) as error:
        got = str(error)
    do = "index the source with `pi05 data index`"
    raise UserError(f"{store.where}/index.json", got=got, expected="an index", do=do)


def _content(recorded: dict[str, Any]) -> dict[str, Any]:
    """Without the hashes of files whose bytes depend on the version that wrote them."""
    return {name: value for name, value in recorded.items() if name != "files"}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
