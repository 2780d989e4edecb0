"""The archive of a sample's numbers: what numpy reads and writes, byte for byte ours, damage refused."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from pi05_train.samples.archive import read_archive, write_archive

named = st.dictionaries(
    st.sampled_from(["state", "actions", "action_valid", "ä"]),
    arrays.arrays(st.sampled_from([np.float32, np.bool_, np.int64]), arrays.array_shapes(max_dims=3, max_side=4)),
    max_size=4,
)


def assert_same(found: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]]) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@given(named)
@settings(max_examples=40, deadline=None)
def test_what_is_written_is_read_by_us_and_by_numpy(content: dict[str, NDArray[Any]]) -> None:
    written = write_archive(content)
    assert_same(read_archive(written), content)
    with np.load(io.BytesIO(written)) as archive:
        assert_same(dict(archive), content)


@given(named, st.booleans())
@settings(max_examples=40, deadline=None)
def test_what_numpy_writes_is_read(content: dict[str, NDArray[Any]], compressed: bool) -> None:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **{k: np.asfortranarray(v) for k, v in content.items()})
    assert_same(read_archive(buffer.getvalue()), content)


def test_arrays_can_be_written_to() -> None:
    (array,) = read_archive(write_archive({"state": np.zeros(3, np.float32)})).values()
    array += 1


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_cut_or_a_changed_number_is_refused(data: st.DataObject) -> None:
    values = np.arange(60, dtype=np.float32)
    written = bytearray(write_archive({"state": values[:9], "actions": values.reshape(6, 10)}))
    if data.draw(st.booleans()):
        damaged = bytes(written[: data.draw(st.integers(0, len(written) - 1))])
    else:
        place = written.index(values.tobytes()) + data.draw(st.integers(0, values.nbytes - 1))
        written[place] ^= data.draw(st.integers(1, 255))
        damaged = bytes(written)
    with pytest.raises((ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile)):
        read_archive(damaged)


def test_pickled_objects_are_refused() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, state=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="pickle"):
        read_archive(buffer.getvalue())
