"""From a row to its sample: one read of one byte range, checked before anybody believes it."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

import numpy as np
from PIL import Image

from pi05_train.data.loading.fetch import Fetcher
from pi05_train.data.loading.shard_cache import ShardCache
from pi05_train.data.order.mixture import Mixture
from pi05_train.data.order.schedule import Draw
from pi05_train.data.permutation import permute
from pi05_train.errors import UserError
from pi05_train.samples.schema import Sample
from pi05_train.samples.shards import check_sample, parse_sample, split_members

T = TypeVar("T")
_MOST_IN_A_ROW = 16
_READ_TOGETHER = 64


class BadSample(UserError):  # noqa: N818  it is a finding about the data, not a fault of the program
    """A sample that will never be readable: damaged, or not what its card declares."""


@dataclass(frozen=True)
class Fault:
    """One bad sample that a draw ran into."""

    source: str
    row: int
    draw: int
    reason: str


@dataclass(frozen=True)
class Drawn(Generic[T]):
    """What was made of a draw, and the bad samples that were passed over on the way."""

    value: T
    faults: tuple[Fault, ...]


class Reader:
    """Reads samples of an opened mixture. Holds no open files, and may be pickled: worker processes share its files."""

    def __init__(self, mixture: Mixture, cache: ShardCache | None = None) -> None:
        """`cache` keeps what is read of remote shards."""
        self.mixture = mixture
        self._fetcher = Fetcher(mixture, cache)

    def start(self, samples: Sequence[tuple[str, int]]) -> Callable[[], list[bytes]]:
        """Begin to fetch these (source, row); what it returns waits, and gives the `content` that others here take."""
        return self._fetcher.start(samples)

    def members(self, source: str, row: int, content: bytes | None = None) -> dict[str, bytes]:
        """The members (extension to bytes) of one sample, checksum verified; `content` if it has been fetched.

        Raises `BadSample` when the bytes are not those that were indexed, UserError when the shard is gone.
        """
        if content is None:
            [content] = self.start([(source, row)])()
        index = self.mixture.indexes[source]
        record = index.records[self.mixture.rows[source][row]]
        if len(content) != record["length"] or zlib.crc32(content) != int(record["crc32"]):
            shard = index.shards[int(record["shard"])].name
            raise BadSample(
                f"sample {self.mixture.key(source, row)} of source {source}",
                got=f"{len(content)} bytes with another checksum at byte {record['offset']} of {shard}",
                expected=f"{record['length']} bytes as indexed",
                do="restore the shard",
            )
        return split_members(content)

    def read(self, source: str, row: int, content: bytes | None = None) -> Sample:
        """The sample at position `row` of the source's filtered rows.

        Raises `BadSample` (a UserError) for one that is damaged or not what its card declares.
        """
        members = self.members(source, row, content)
        try:
            sample = parse_sample(members)
            check_sample(sample, self.mixture.cards[source])
        except UserError as error:
            raise bad_sample(str(error)) from error
        return sample

    def read_all(self, source: str, rows: Iterable[int]) -> Iterator[Sample]:
        """`read` of each row in turn, fetched some together."""
        waiting = iter(rows)
        while some := list(islice(waiting, _READ_TOGETHER)):
            for row, content in zip(some, self.start([(source, row) for row in some])(), strict=True):
                yield self.read(source, row, content)

    def draw(self, draw: Draw, seed: int, make: Callable[[Sample], T], content: bytes | None = None) -> Drawn[T]:
        """`make` of the drawn sample, or of its deterministic substitute if the sample is bad.

        Substitutes come in the order of a permutation keyed by (seed, source, draw). An exception of `make` is the
        sample's fault only when one of its images cannot be decoded; any other is raised as it is.
        """
        size = len(self.mixture.rows[draw.source])
        faults: list[Fault] = []
        row = draw.row
        for attempt in range(_MOST_IN_A_ROW):
            try:
                sample = self.read(draw.source, row, content if attempt == 0 else None)
                return Drawn(_make(make, sample), tuple(faults))
            except BadSample as error:
                faults.append(Fault(draw.source, row, draw.draw, str(error)))
            position = np.array([attempt % size])
            row = int(permute(position, size, "substitute", seed, draw.source, draw.draw)[0])
        raise UserError(
            f"source {draw.source}",
            got=f"{_MOST_IN_A_ROW} bad samples in a row, the last: {faults[-1].reason}",
            expected="readable samples",
            do="convert the source again",
        )


def bad_sample(sentence: str) -> BadSample:
    """A `BadSample` that says exactly `sentence`."""
    return BadSample.__new__(BadSample, sentence)


def _make(make: Callable[[Sample], T], sample: Sample) -> T:
    try:
        return make(sample)
    except Exception as error:
        for camera, jpeg in sample.images.items():
            try:
                Image.open(io.BytesIO(jpeg)).load()
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as reason:
                raise BadSample(
                    f"sample {sample.key} of source {sample.source}, {camera}.jpg",
                    got=reason,
                    expected="an image that decodes",
                    do="convert it again",
                ) from error
        raise
