"""TFRecord files and the tf.train.Example messages in them, without TensorFlow or protobuf.

A record is its length (u64), a checksum of the length, the payload and a checksum of the payload, all little-endian;
checksums are CRC-32C, rotated and shifted ("masked"). Every checksum is verified.
Sources: tensorflow/core/lib/io/record_writer.h, tensorflow/core/example/{example,feature}.proto, the protobuf encoding.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from pi05_train.errors import UserError

Value = NDArray[np.float32] | NDArray[np.int64] | list[bytes]
"""What a feature of an Example holds."""

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5


def masked_crc32c(content: bytes) -> int:
    """The checksum that stands behind a length or a payload."""
    crc = int(google_crc32c.value(content))
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def record_offsets(path: Path) -> list[int]:
    """Where each record of the file begins; reads and checks the lengths, not the payloads.

    Refuses (UserError naming file and offset) a file that ends within a record or whose length is damaged.
    """
    offsets: list[int] = []
    size = path.stat().st_size
    with path.open("rb") as file:
        while (offset := file.tell()) < size:
            length = _read_length(file, path, offset, size)
            offsets.append(offset)
            file.seek(length + _FOOTER.size, os.SEEK_CUR)
    return offsets


def read_record(path: Path, offset: int) -> bytes:
    """The payload of the record that begins at `offset`; refuses (UserError) what `records` refuses."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(offset)
        length = _read_length(file, path, offset, size)
        payload = file.read(length)
        (expected,) = _FOOTER.unpack(file.read(_FOOTER.size))
    if masked_crc32c(payload) != expected:
        raise _damaged(path, offset, f"a payload of {length} bytes that its checksum contradicts")
    return payload


def records(path: Path) -> Iterator[bytes]:
    """The payloads in file order; refuses (UserError naming file and offset) truncated and damaged files."""
    for offset in record_offsets(path):
        yield read_record(path, offset)


def _read_length(file: BinaryIO, path: Path, offset: int, size: int) -> int:
    """The payload's length, of a record that lies in the file whole."""
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise _damaged(path, offset, f"the file's end after {len(header)} bytes of a record")
    length, crc = _HEADER.unpack(header)
    if masked_crc32c(header[:8]) != crc:
        raise _damaged(path, offset, "a record length that its checksum contradicts")
    there = size - offset - _HEADER.size - _FOOTER.size
    if length > there:
        raise _damaged(path, offset, f"the file's end {length - there} bytes before the record's")
    return int(length)


def _damaged(path: Path, offset: int, got: str) -> UserError:
    return UserError(f"{path}, offset {offset}", got=got, expected="a whole TFRecord", do="fetch the file again")


class MalformedError(ValueError):
    """A payload that is no tf.train.Example; carries only what is wrong with it."""


def parse_example(payload: bytes, wanted: Collection[str] | None = None) -> dict[str, Value]:
    """The Example's features: float32 and int64 arrays [N], and lists of byte strings.

    With `wanted` only those names are decoded; names that are not there are absent in the result. A feature without a
    value (an empty oneof) is an empty list. Raises MalformedError for what is no Example.
    """
    features: dict[str, Value] = {}
    message = memoryview(payload)
    for number, body in _fields(message):
        if number == 1:
            for entry_number, entry in _fields(_message(body)):
                if entry_number == 1:
                    _add_entry(_message(entry), wanted, features)
    return features


def _add_entry(entry: memoryview, wanted: Collection[str] | None, features: dict[str, Value]) -> None:
    """One entry of `map<string, Feature>`: field 1 is the name, field 2 the value."""
    name, feature = "", memoryview(b"")
    for number, body in _fields(entry):
        if number == 1:
            try:
                name = bytes(_message(body)).decode()
            except UnicodeDecodeError as error:
                raise MalformedError("a feature's name is not UTF-8") from error
        elif number == 2:
            feature = _message(body)
    if wanted is None or name in wanted:
        features[name] = _feature(feature)


def _feature(feature: memoryview) -> Value:
    value: Value = []
    for number, body in _fields(feature):
        if number == 1:
            value = [bytes(_message(item)) for item_number, item in _fields(_message(body)) if item_number == 1]
        elif number == 2:
            value = _floats(_message(body))
        elif number == 3:
            value = _ints(_message(body))
    return value


def _floats(message: memoryview) -> NDArray[np.float32]:
    """A FloatList: packed runs and single values may stand side by side, in order."""
    runs: list[NDArray[np.float32]] = []
    for number, body in _fields(message):
        if number != 1:
            continue
        raw = _message(body)
        if len(raw) % 4:
            raise MalformedError(f"a float list of {len(raw)} bytes")
        runs.append(np.frombuffer(raw, "<f4"))
    return np.concatenate(runs).astype(np.float32) if runs else np.empty(0, np.float32)


def _ints(message: memoryview) -> NDArray[np.int64]:
    """An Int64List: packed runs and single values may stand side by side, in order."""
    runs: list[NDArray[np.int64]] = []
    for number, body in _fields(message):
        if number == 1:
            value = [body] if isinstance(body, int) else None
            runs.append(_varints(_message(body)) if value is None else np.array(value, np.uint64).view(np.int64))
    return np.concatenate(runs) if runs else np.empty(0, np.int64)


def _varints(packed: memoryview) -> NDArray[np.int64]:
    """All integers of a packed run at once: seven bits per byte, lowest first, the top bit set on all but the last."""
    raw = np.frombuffer(packed, np.uint8)
    ends = np.flatnonzero(raw < 0x80)
    if not len(raw):
        return np.empty(0, np.int64)
    if not len(ends) or ends[-1] != len(raw) - 1:
        raise MalformedError("an integer that does not end")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 10:
        raise MalformedError("an integer of more than 10 bytes")
    values = np.zeros(len(starts), np.uint64)
    for place in range(int(lengths.max())):
        has = lengths > place
        bits = (raw[starts[has] + place] & 0x7F).astype(np.uint64)
        values[has] |= bits << np.uint64(7 * place)
    return values.view(np.int64)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """(field number, value): an integer for a varint, else the raw bytes, of every field in order."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == _DELIMITED:
            length, at = _varint(message, at)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise MalformedError(f"wire type {wire}")
        if length > end - at:
            raise MalformedError(f"a field that ends {length - (end - at)} bytes after its message")
        yield number, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        if at >= len(message) or shift > 63:
            raise MalformedError("an integer that does not end")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7


def _message(value: memoryview | int) -> memoryview:
    if isinstance(value, int):
        raise MalformedError("a number where a message belongs")
    return value
