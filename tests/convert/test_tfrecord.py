from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi05_train.convert.tfrecord import (
    MalformedError,
    masked_crc32c,
    parse_example,
    read_record,
    record_offsets,
    records,
)
from pi05_train.errors import UserError
from tests.convert.rlds_folders import crc32c, delimited, example, framed, masked, varint

INT64 = st.integers(-(2**63), 2**63 - 1)
FLOAT32 = st.floats(width=32, allow_nan=False)


def written(path: Path, payloads: list[bytes]) -> Path:
    path.write_bytes(b"".join(map(framed, payloads)))
    return path


def test_the_checksum_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720's check value: the test's own checksum is right
    assert struct.pack("<I", masked_crc32c(b"123456789")) == masked(b"123456789")


@given(payloads=st.lists(st.binary(max_size=40), max_size=5))
def test_payloads_come_back_in_order(payloads: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = written(tmp_path_factory.mktemp("records") / "a.tfrecord", payloads)
    assert list(records(path)) == payloads
    assert [read_record(path, offset) for offset in record_offsets(path)] == payloads


def test_every_truncation_is_refused_by_file_and_offset(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tfrecord", [b"first one", b"second"])
    whole, second = path.read_bytes(), 16 + len(b"first one")
    for size in range(1, len(whole)):
        path.write_bytes(whole[:size])
        if size == second:
            assert list(records(path)) == [b"first one"]  # a cut between records shows only in the number of records
            continue
        offset = 0 if size < second else second
        with pytest.raises(UserError, match=rf"a\.tfrecord, offset {offset}: got the file's end"):
            list(records(path))


def test_every_flipped_byte_is_refused_by_file_and_offset(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tfrecord", [b"first one", b"second"])
    whole, second = path.read_bytes(), 16 + len(b"first one")
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        with pytest.raises(UserError, match=rf"a\.tfrecord, offset {0 if at < second else second}: got a (record|pay)"):
            list(records(path))


@given(
    floats=st.lists(FLOAT32, max_size=9),
    ints=st.lists(INT64, max_size=9),
    texts=st.lists(st.binary(max_size=9), max_size=5),
    packed=st.booleans(),
)
def test_examples_come_back(floats: list[float], ints: list[int], texts: list[bytes], packed: bool) -> None:
    stored = {"f": np.array(floats, np.float32), "steps/i": np.array(ints, np.int64), "b": texts}
    found = parse_example(example(stored, packed=packed))
    assert list(found) == list(stored)
    assert isinstance(found["f"], np.ndarray)
    assert isinstance(found["steps/i"], np.ndarray)
    assert (found["f"].dtype, found["steps/i"].dtype) == (np.float32, np.int64)
    assert found["f"].tobytes() == stored["f"].tobytes()  # type: ignore[union-attr]
    assert found["steps/i"].tolist() == ints
    assert found["b"] == texts


def test_packed_and_single_values_may_be_mixed() -> None:
    list_ = b"\x08\x05" + delimited(1, varint(300) + varint(-1)) + b"\x08\x07"
    message = delimited(1, delimited(1, delimited(1, b"i") + delimited(2, delimited(3, list_))))
    assert parse_example(message)["i"].tolist() == [5, 300, -1, 7]  # type: ignore[union-attr]


def test_only_what_is_wanted_is_decoded() -> None:
    broken = delimited(1, delimited(1, b"broken") + delimited(2, delimited(2, delimited(1, b"abc"))))
    message = delimited(1, broken) + example({"kept": [b"x"]})
    assert parse_example(message, {"kept", "absent"}) == {"kept": [b"x"]}
    with pytest.raises(MalformedError, match="a float list of 3 bytes"):
        parse_example(message)


def test_unknown_fields_and_features_without_a_value_are_no_mistake() -> None:
    empty = delimited(1, delimited(1, delimited(1, b"empty")))
    others = varint(9 << 3) + varint(3) + varint(9 << 3 | 1) + bytes(8) + varint(9 << 3 | 5) + bytes(4)
    assert parse_example(empty + others) == {"empty": []}


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (b"\x0a", "does not end"),
        (b"\x0a\x05abc", "ends 2 bytes after its message"),
        (b"\x0b", "wire type 3"),
        (b"\x08\x01", "a number where a message belongs"),
        (delimited(1, delimited(1, delimited(1, b"\xff"))), "not UTF-8"),
        (delimited(1, delimited(1, delimited(2, delimited(3, delimited(1, b"\x80"))))), "does not end"),
        (delimited(1, delimited(1, delimited(2, delimited(3, delimited(1, b"\x80" * 10 + b"\x01"))))), "more than 10"),
        (b"\xff" * 11, "does not end"),
    ],
)
def test_what_is_no_example_is_said_so(message: bytes, words: str) -> None:
    with pytest.raises(MalformedError, match=words):
        parse_example(message)


@given(st.binary(max_size=60))
def test_any_bytes_are_an_example_or_malformed(payload: bytes) -> None:
    with suppress(MalformedError):
        assert isinstance(parse_example(payload), dict)
