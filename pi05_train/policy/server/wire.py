"""openpi's frames: msgpack, with a numpy array as {b"__ndarray__": True, b"data", b"dtype", b"shape"}.

Frames come from strangers. Only plain numbers become arrays (no objects, nothing is ever unpickled), arrays share the
frame's memory, and a length that the frame cannot or should not hold is refused before anything of it is allocated.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn

import msgpack
import numpy as np

from pi05_train.errors import UserError

NUMBERS = frozenset({"b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"})
"""Kind and bytes of the dtypes that are read."""
MOST_ITEMS = 64
"""Of one dictionary or list."""
MOST_CONTAINERS = 256
"""Dictionaries and lists of a frame, arrays included: so many small ones would take far more memory than the frame."""
MOST_DIMS = 8
LONGEST_TEXT = 8192
"""Bytes of a key or a text."""


def pack(message: object) -> bytes:
    """A frame of plain values and numpy arrays or scalars."""
    frame: bytes = msgpack.packb(message, default=_packed)
    return frame


def unpack(frame: bytes) -> object:
    """The values of a frame, arrays read-only; refuses (UserError) what is no such frame."""
    reader = _Reader()
    try:
        return msgpack.unpackb(
            frame,
            object_hook=reader.dictionary,
            list_hook=reader.sequence,
            max_str_len=LONGEST_TEXT,
            max_bin_len=len(frame),
            max_array_len=MOST_ITEMS,
            max_map_len=MOST_ITEMS,
            max_ext_len=0,
        )
    except UserError:
        raise
    except (ValueError, TypeError) as error:  # msgpack's own errors are ValueErrors
        _refuse(" ".join(str(error).split())[:200] or type(error).__name__)


def _packed(value: object) -> dict[bytes, Any]:
    if isinstance(value, np.ndarray) and value.dtype.str[1:] in NUMBERS:
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic) and value.dtype.str[1:] in NUMBERS:
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"{type(value).__name__} has no place in a frame")


class _Reader:
    """What msgpack calls for every dictionary and list of one frame, innermost first."""

    def __init__(self) -> None:
        self._containers = 0

    def sequence(self, values: list[Any]) -> list[Any]:
        self._count()
        return values

    def dictionary(self, values: dict[Any, Any]) -> object:
        self._count()
        if b"__ndarray__" in values:
            return _array(values)
        if b"__npgeneric__" in values:
            return _scalar(values)
        return values

    def _count(self) -> None:
        self._containers += 1
        if self._containers > MOST_CONTAINERS:
            _refuse(f"more than {MOST_CONTAINERS} dictionaries and lists")


def _array(values: dict[Any, Any]) -> np.ndarray[Any, Any]:
    dtype, data, shape = _dtype(values), values.get(b"data"), values.get(b"shape")
    if not isinstance(shape, list) or len(shape) > MOST_DIMS or not all(type(n) is int and n >= 0 for n in shape):
        _refuse("an array whose shape is no list of lengths")
    needed = math.prod(shape) * dtype.itemsize
    if not isinstance(data, bytes) or len(data) != needed:
        have = f"{len(data)} bytes" if isinstance(data, bytes) else f"a {type(data).__name__}"
        _refuse(f"an array {dtype} {shape} with {have} of data, where it has {needed} bytes")
    return np.ndarray(shape, dtype, data)


def _scalar(values: dict[Any, Any]) -> object:
    dtype, data = _dtype(values), values.get(b"data")
    if not isinstance(data, bool | int | float):
        _refuse(f"a number {dtype} that is a {type(data).__name__}")
    try:
        return dtype.type(data)
    except (OverflowError, ValueError):
        _refuse(f"a number that {dtype} does not hold")


def _dtype(values: dict[Any, Any]) -> np.dtype[Any]:
    name = values.get(b"dtype")
    if not isinstance(name, str) or name[:1] not in ("<", ">", "|", "=") or name[1:] not in NUMBERS:
        _refuse(f"an array of dtype {str(name)[:40]!r}")
    return np.dtype(name)


def _refuse(got: str) -> NoReturn:
    raise UserError(
        "frame",
        got=got,
        expected="a msgpack dictionary of text and arrays of numbers, as openpi-client packs it",
        do="send one",
    )
