from __future__ import annotations

import tracemalloc
from contextlib import suppress
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pi05_train.errors import UserError
from pi05_train.policy.server.wire import NUMBERS, pack, unpack
from tests.policy.server.malformed import ARRAYS, HUGE

DTYPES = st.sampled_from(sorted(NUMBERS)).map(np.dtype)
PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=50)
    | st.binary(max_size=50)
    | DTYPES.flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0)))
)
KEYS = st.text(max_size=20)
MESSAGES = st.dictionaries(KEYS, st.recursive(PLAIN, lambda of: st.dictionaries(KEYS, of, max_size=4), max_leaves=8))


def same(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return isinstance(right, dict) and left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, np.ndarray):
        equal = np.array_equal(left, right, equal_nan=left.dtype.kind == "f")
        return isinstance(right, np.ndarray) and left.dtype == right.dtype and left.shape == right.shape and equal
    return type(left) is type(right) and bool(left == right)


def values_or_refused(frame: bytes) -> None:
    """Raises whatever else happens."""
    with suppress(UserError):
        unpack(frame)


@settings(max_examples=50)
@given(MESSAGES)
def test_what_is_packed_is_unpacked(message: dict[str, Any]) -> None:
    assert same(unpack(pack(message)), message)


@given(st.binary(max_size=300))
def test_any_bytes_are_values_or_refused(frame: bytes) -> None:
    values_or_refused(frame)


@settings(max_examples=50)
@given(MESSAGES, st.data())
def test_a_frame_with_another_byte_is_values_or_refused(message: dict[str, Any], data: st.DataObject) -> None:
    frame = bytearray(pack(message))
    frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    values_or_refused(bytes(frame))


@pytest.mark.parametrize("value", [np.float32(1.5), np.int64(-3), np.bool_(True), np.uint8(255)])
def test_a_numpy_number_stays_one(value: np.generic) -> None:
    read: Any = unpack(pack({"number": value}))
    assert read["number"] == value
    assert read["number"].dtype == value.dtype


def test_an_array_is_packed_as_openpi_client_reads_it() -> None:
    frame = pack({"actions": np.array([[1, 2]], "<f4")})
    assert msgpack.unpackb(frame) == {
        "actions": {b"__ndarray__": True, b"data": b"\0\0\x80?\0\0\0@", b"dtype": "<f4", b"shape": [1, 2]}
    }


@pytest.mark.parametrize("name", HUGE)
def test_lengths_that_a_frame_should_not_hold_take_no_memory(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="frame: got"):
            unpack(HUGE[name])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * 2**20


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="frame: got"):
        unpack(ARRAYS[name])


@pytest.mark.parametrize("value", [np.array([object()]), np.array(["text"]), np.zeros(2, complex), object()])
def test_what_has_no_place_in_a_frame_is_not_packed(value: object) -> None:
    with pytest.raises(TypeError, match="has no place in a frame"):
        pack({"value": value})


def test_arrays_share_the_frames_memory() -> None:
    read: Any = unpack(pack({"picture": np.zeros((8, 8, 3), np.uint8)}))
    assert not read["picture"].flags.writeable
    assert not read["picture"].flags.owndata
