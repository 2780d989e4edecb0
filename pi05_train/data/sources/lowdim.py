"""States and action chunks of many samples at once, read from the shards without their pictures."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi05_train.data.sources.index import BLOCK, Index, Shard
from pi05_train.errors import UserError
from pi05_train.samples.shards import LOWDIM, parse_header, parse_lowdim
from pi05_train.samples.store import REQUESTS_AT_ONCE, ReadSpan, Store

ROWS_PER_BLOCK = 512
_FIRST_READ = 8192
_SHAPES = {
    "state": (1, np.dtype(np.float32)),
    "actions": (2, np.dtype(np.float32)),
    "action_valid": (1, np.dtype(np.bool_)),
}
_LOCAL_HEADER = 30
"""Bytes of a zip entry's header before its name."""


@dataclass(frozen=True)
class Block:
    """Numbers of some samples of equal shapes; an array that these samples do not have is absent."""

    rows: NDArray[np.int64]
    arrays: dict[str, NDArray[Any]]
    """"state" [N, S] float32, "actions" [N, H, A] float32, "action_valid" [N, H] bool; may hold NaN."""


def read_blocks(index: Index, rows: NDArray[np.int64]) -> Iterator[Block]:
    """The numbers of these rows (ascending) in blocks; samples without numbers are left out.

    Of a sample only its head is read, up to the end of its numbers, whose own checksums are compared. Refuses
    (UserError) damaged numbers, and a shard that cannot be read.
    """
    shards = np.asarray(index.records["shard"][rows])
    for shard in np.unique(shards).tolist():
        own = rows[shards == shard]
        with _reader(index.store, index.shards[shard]) as reader:
            for first in range(0, len(own), ROWS_PER_BLOCK):
                yield from reader.read(index, own[first : first + ROWS_PER_BLOCK])


def read_heads(
    store: Store, shards: Sequence[Shard], records: NDArray[np.void]
) -> Iterator[tuple[bytes, bytes] | UserError]:
    """(json, lowdim.npz) of the sample of each record, the second empty if it has none; the complaint about one that
    cannot be taken apart. The records stand in the order of the shards, and count them in `shards`.

    Nothing after these members is read, and no checksum compared. Refuses (UserError) a shard that cannot be read.
    """
    for shard in np.unique(records["shard"]).tolist():
        with _reader(store, shards[shard]) as reader:
            own = records[records["shard"] == shard]
            if store.remote:
                with ThreadPoolExecutor(REQUESTS_AT_ONCE) as threads:
                    yield from threads.map(reader.head, own["offset"].tolist(), own["length"].tolist())
            else:
                yield from map(reader.head, own["offset"].tolist(), own["length"].tolist())


@contextmanager
def _reader(store: Store, shard: Shard) -> Iterator[_ShardReader]:
    with store.opened(shard.name) as read:
        yield _ShardReader(read, f"{store.where}/{shard.name}")


@dataclass(frozen=True)
class _Layout:
    """Where things stand in an archive of a certain size whose entries are stored uncompressed."""

    same: tuple[tuple[int, int, bytes], ...]
    """(start, end, content) of everything that says so; equal in every archive of this layout."""
    checksums: tuple[tuple[int, int, int], ...]
    """(place of the crc32, start, end of the bytes it is of)."""
    arrays: tuple[tuple[str, int, int, np.dtype[Any], tuple[int, ...]], ...]

    def fits(self, content: bytes) -> bool:
        return all(content[start:end] == expected for start, end, expected in self.same)

    def is_whole(self, content: bytes) -> bool:
        return all(
            zlib.crc32(content[start:end]) == struct.unpack_from("<I", content, place)[0]
            for place, start, end in self.checksums
        )


class _ShardReader:
    def __init__(self, read: ReadSpan, path: str) -> None:
        self._read = read
        self._path = path
        self._enough = _FIRST_READ
        self._layouts: dict[int, _Layout | None] = {}

    def read(self, index: Index, rows: NDArray[np.int64]) -> Iterator[Block]:
        found: dict[_Layout, tuple[list[int], list[bytes]]] = {}
        for row in rows.tolist():
            offset, length = int(index.records["offset"][row]), int(index.records["length"][row])
            try:
                json, content = self._head(offset, length)
                layout = self._layout(content) if content else None
            except (ValueError, IndexError, zipfile.BadZipFile, struct.error) as error:
                raise self._damaged(offset, error) from error
            if not content:
                continue
            if layout is None:
                header = parse_header(json, f"sample at byte {offset} of {self._path}")
                arrays = parse_lowdim(content, header)
                yield Block(np.array([row]), {name: array[None] for name, array in arrays.items()})
                continue
            if not layout.is_whole(content):
                raise self._damaged(offset, "numbers with another checksum")
            of_layout = found.setdefault(layout, ([], []))
            of_layout[0].append(row)
            of_layout[1].append(content)
        for layout, (numbers, contents) in found.items():
            yield Block(np.array(numbers), _stacked(layout, contents))

    def head(self, offset: int, length: int) -> tuple[bytes, bytes] | UserError:
        """(json, lowdim.npz) of the sample there, or what is wrong with it."""
        try:
            return self._head(offset, length)
        except UserError:
            raise  # the store's
        except ValueError as error:
            return self._damaged(offset, error)

    def _head(self, offset: int, length: int) -> tuple[bytes, bytes]:
        """(json, lowdim.npz) of the sample there, the second empty if it has none."""
        head = self._read(offset, min(self._enough, length))
        json_end = BLOCK + _tar_size(head, 0)
        second = -(-json_end // BLOCK) * BLOCK
        if second + BLOCK > len(head):
            head = self._read(offset, min(second + self._enough, length))
        name = head[second : second + 100].partition(b"\0")[0]
        if not name.endswith(b".lowdim.npz"):
            return head[BLOCK:json_end], b""
        end = second + BLOCK + _tar_size(head, second)
        if end > len(head):
            self._enough = min(max(self._enough, end + 2 * BLOCK), 2**20)
            head = self._read(offset, min(end, length))
        if end > len(head):
            raise ValueError("numbers that end beyond their sample")
        return head[BLOCK:json_end], head[second + BLOCK : end]

    def _layout(self, content: bytes) -> _Layout | None:
        """How to take the archive apart at once; None for one that must be parsed."""
        if len(content) not in self._layouts:
            self._layouts[len(content)] = _find_layout(content)
        layout = self._layouts[len(content)]
        return layout if layout is not None and layout.fits(content) else None

    def _damaged(self, offset: int, got: object) -> UserError:
        return UserError(
            f"sample at byte {offset} of shard {self._path}",
            got=got,
            expected="its numbers as they were written",
            do="see what else is damaged with `pi05 data verify`",
        )


def _tar_size(head: bytes, start: int) -> int:
    return int(head[start + 124 : start + 136].rstrip(b"\0 "), 8)


def _find_layout(content: bytes) -> _Layout | None:
    same: list[tuple[int, int, bytes]] = []
    checksums: list[tuple[int, int, int]] = []
    arrays: list[tuple[str, int, int, np.dtype[Any], tuple[int, ...]]] = []
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
    for entry in entries:
        start = entry.header_offset
        name_bytes, extra_bytes = struct.unpack_from("<HH", content, start + 26)
        body = start + _LOCAL_HEADER + name_bytes + extra_bytes
        end = body + entry.file_size
        stream = io.BytesIO(content[body:end])
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 8 or np.lib.format.read_magic(stream)[0] != 1:
            return None
        shape, by_column, dtype = np.lib.format.read_array_header_1_0(stream)
        first = body + stream.tell()
        name = entry.filename.removesuffix(".npy")
        if by_column or (len(shape), dtype) != _SHAPES.get(name) or end - first != dtype.itemsize * int(np.prod(shape)):
            return None
        same += [(start, start + 14, content[start : start + 14]), (start + 18, first, content[start + 18 : first])]
        checksums.append((start + 14, body, end))
        arrays.append((name, first, end, dtype, shape))
    shapes = {name: shape for name, _, _, _, shape in arrays}
    if ("actions" in shapes) != ("action_valid" in shapes) or not shapes.keys() <= set(LOWDIM):
        return None
    if "actions" in shapes and shapes["actions"][:1] != shapes["action_valid"]:
        return None
    return _Layout(tuple(same), tuple(checksums), tuple(arrays))


def _stacked(layout: _Layout, contents: list[bytes]) -> dict[str, NDArray[Any]]:
    return {
        name: np.frombuffer(b"".join(content[start:end] for content in contents), dtype).reshape(len(contents), *shape)
        for name, start, end, dtype, shape in layout.arrays
    }
