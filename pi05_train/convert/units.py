"""One unit of a foreign source into one finished file, in whichever process: the first pass of a conversion.

A finished unit is some files, the last of which vouches for the others: `unit-00000007.blocks` (samples as they stand
in a shard), `.npy` (where each one is), `.parquet` (states and actions, if the source has any) and `.json` (counts).
"""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BufferedWriter
from pathlib import Path

import numpy as np

from pi05_train.convert.lowdim import LowdimRows, has_rows
from pi05_train.convert.pictures import provenance
from pi05_train.convert.source import Dropped, EpisodeRecord, ForeignSource, OpenSource, Options, Unit
from pi05_train.errors import UserError
from pi05_train.samples.card import SourceCard
from pi05_train.samples.schema import Sample
from pi05_train.samples.shards import check_sample, member_blocks, sample_blocks

ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("unit", "<u8"), ("offset", "<u8"), ("length", "<u8")])
"""One kept sample: the hash that decides its place in the shards, and where its blocks stand."""


@dataclass(frozen=True)
class Job:
    """What a worker process needs to convert any unit of a source."""

    open_source: OpenSource
    path: Path
    options: Options
    working: Path
    """Folder of the finished units."""

    def open(self) -> ForeignSource:
        return self.open_source(self.path, self.options)

    def file(self, unit: Unit, suffix: str) -> Path:
        return self.working / f"unit-{unit.number:08d}{suffix}"


@dataclass(frozen=True)
class UnitCounts:
    """What became of one unit."""

    kept: int
    heldout: int
    dropped: dict[str, int]
    """Samples by reason."""
    examples: dict[str, str]
    """The first key of each reason."""


_OPENED: dict[str, tuple[Job, ForeignSource]] = {}


def convert_unit(job: Job, unit: Unit) -> UnitCounts:
    """Convert the unit, unless it is finished; the source is opened once per process."""
    if (finished := finished_counts(job, unit)) is not None:
        return finished
    opened = _OPENED.get("source")
    if opened is None or opened[0] != job:
        _OPENED["source"] = opened = (job, job.open())
    try:
        return _write(job, unit, opened[1])
    except UserError:
        raise
    except Exception as error:
        error.add_note(f"while converting {unit.name} of {job.path}")
        raise


def finished_counts(job: Job, unit: Unit) -> UnitCounts | None:
    """The counts of a unit that an earlier call finished."""
    path = job.file(unit, ".json")
    return UnitCounts(**json.loads(path.read_bytes())) if path.is_file() else None


def unit_samples(source: ForeignSource, unit: Unit, options: Options) -> Iterator[Sample | EpisodeRecord | Dropped]:
    """The unit's samples as they are stored: with the picture policy in their provenance, checked against the card."""
    policy = provenance(options)
    for sample in source.samples(unit):
        if isinstance(sample, Sample):
            sample = replace(sample, provenance=policy | sample.provenance)
            check_sample(sample, source.card)
        assert isinstance(sample, Dropped) or isinstance(sample, EpisodeRecord) == (options.tier == "master")
        yield sample


def sort_key(card: SourceCard, key: str) -> tuple[int, int]:
    """The place of a sample in the pre-shuffled order, as two 64-bit numbers; depends on names alone."""
    digest = hashlib.sha256(f"order/{card.name}/{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:16], "big")


def _write(job: Job, unit: Unit, source: ForeignSource) -> UnitCounts:
    entries: list[tuple[int, ...]] = []
    dropped: Counter[str] = Counter()
    examples: dict[str, str] = {}
    heldout = 0
    rows = LowdimRows(source.card, job.options.stride)
    with written_whole(job.file(unit, ".blocks")) as file:
        for sample in unit_samples(source, unit, job.options):
            if isinstance(sample, Dropped):
                dropped[sample.reason] += sample.samples
                examples.setdefault(sample.reason, sample.key)
                continue
            if isinstance(sample, Sample):
                blocks = sample_blocks(sample)
                rows.add(sample)
                heldout += sample.split == "heldout"
            else:
                blocks = member_blocks(sample.key, sample.members)
            entries.append((*sort_key(source.card, sample.key), unit.number, file.tell(), len(blocks)))
            file.write(blocks)
    with written_whole(job.file(unit, ".npy")) as file:
        np.save(file, np.array(entries, ENTRY))
    if has_rows(source.card, job.options):
        with written_whole(job.file(unit, ".parquet")) as file:
            rows.write(file)
    counts = UnitCounts(len(entries), heldout, dict(sorted(dropped.items())), dict(sorted(examples.items())))
    with written_whole(job.file(unit, ".json")) as file:
        file.write(json.dumps(counts.__dict__).encode())
    return counts


@contextmanager
def written_whole(path: Path) -> Iterator[BufferedWriter]:
    """A file that appears under its name only when it is all on the disk; a full disk becomes a UserError."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")  # a killed conversion's worker may still be at it
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"conversion into {path.parent}",
                got="a full disk",
                expected="room for twice the converted source",
                do="make room and start the same command again; what is finished is kept",
            ) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def prepare_worker() -> None:
    """In a worker process: leave Ctrl-C to the main process, and end with that one, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
