"""Frames that no client should send, made of good ones or of nothing; the same for the same seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np

from pi05_train.policy.server.wire import pack

HUGE = {
    "array": b"\xdd\xff\xff\xff\xff",
    "map": b"\xdf\xff\xff\xff\xff",
    "bytes": b"\xc6\xff\xff\xff\xff",
    "text": b"\xdb\xff\xff\xff\xff",
    "extension": b"\xc9\xff\xff\xff\xff\x01",
    "arrays in arrays": b"\xdd\x00\x00\x40\x00" * 4000,
    "maps in maps": b"\x81\xa0" * 4000 + b"\xc0",
    "lists in lists": b"\x91" * 4000 + b"\xc0",
    "many small maps": b"\xdc\x00\x40" + (b"\xdc\x00\x40" + b"\x80" * 64) * 64,
    "wide map": b"\xde\x00\x41" + b"\xa1a\xc0" * 65,
    "timestamp": b"\xd6\xff\x00\x00\x00\x00",
}
"""Lengths and depths that a frame cannot or should not hold."""


def array_frame(**change: Any) -> bytes:
    """An observation whose joints are an array with other fields than it has."""
    fields: dict[Any, Any] = {b"__ndarray__": True, b"data": bytes(24), b"dtype": "<f8", b"shape": [3]}
    fields |= {name.encode(): value for name, value in change.items()}
    return msgpack.packb({"joints": {key: value for key, value in fields.items() if value is not ...}})


ARRAYS = {
    "objects": array_frame(dtype="|O"),
    "records": array_frame(dtype=[["a", "<f8"]]),
    "text as dtype": array_frame(dtype="float64"),
    "unknown dtype": array_frame(dtype="<f3"),
    "strings": array_frame(dtype="<U6"),
    "void": array_frame(dtype="|V24"),
    "times": array_frame(dtype="<M8[s]"),
    "bytes as dtype": array_frame(dtype=b"<f8"),
    "no dtype": array_frame(dtype=...),
    "no data": array_frame(data=...),
    "text as data": array_frame(data="0" * 24),
    "too little data": array_frame(data=bytes(23)),
    "too much data": array_frame(data=bytes(25)),
    "negative shape": array_frame(shape=[-3]),
    "huge shape": array_frame(shape=[2**40, 2**40]),
    "shape that overflows": array_frame(shape=[2**63, 2]),
    "no shape": array_frame(shape=...),
    "number as shape": array_frame(shape=3),
    "truth as shape": array_frame(shape=[True, 3]),
    "fraction as shape": array_frame(shape=[3.0]),
    "many dims": array_frame(shape=[3] + [1] * 40),
    "pickled scalar": msgpack.packb({"gripper": {b"__npgeneric__": True, b"data": b"\x80\x04.", b"dtype": "|O"}}),
    "scalar of text": msgpack.packb({"gripper": {b"__npgeneric__": True, b"data": "7", b"dtype": "<f8"}}),
    "scalar too large": msgpack.packb({"gripper": {b"__npgeneric__": True, b"data": 300, b"dtype": "|u1"}}),
}
"""Arrays and numbers that are none, or that nobody should read."""


def malformed(good: dict[str, Any], count: int, seed: int) -> Iterator[bytes]:
    """Frames that are cut, changed, spliced or made up, or observations with values of other types."""
    rng, frame = np.random.default_rng(seed), pack(good)
    odd: list[Any] = [None, True, -1, 2**64 - 1, 1.5, "", b"", [], {}, [[1]], np.zeros(0), np.full(3, np.inf)]
    named = [*HUGE.values(), *ARRAYS.values()]
    for number in range(count):
        if number < len(named):
            yield named[number]
        elif (way := number % 5) == 0:
            yield frame[: rng.integers(len(frame))]
        elif way == 1:
            changed = bytearray(frame)
            # The head holds all keys and lengths: most of the frame is a picture, where any byte is good.
            for place in rng.integers(0, 200, rng.integers(1, 9)):
                changed[place] = rng.integers(256)
            yield bytes(changed)
        elif way == 2:
            yield rng.bytes(int(rng.integers(0, 400)))
        elif way == 3:
            start, end = sorted(rng.integers(0, len(frame), 2))
            yield frame[:start] + frame[end:] + frame[start : start + 50]
        else:
            keys = list(good)
            yield pack(good | {keys[rng.integers(len(keys))]: odd[rng.integers(len(odd))]})
