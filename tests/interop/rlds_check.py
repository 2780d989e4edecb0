"""Every feature of TFRecord files as an independent reader sees it: the other side of `convert/tfrecord.py`'s tests.

    python tests/interop/rlds_check.py FILE... > theirs.txt
    .venv/bin/python tests/interop/rlds_check.py --ours FILE... > ours.txt
    diff theirs.txt ours.txt

The first command runs in an environment of its own, where nothing of this repository is installed (pytest does not
collect this file): Google's protobuf parses the messages (by the published tf.train.Example, declared below), the
`tfrecord` package finds the records, `crc32c` verifies both checksums of each, on its own pass over the file.

    uv venv --python 3.11 RLDS_ENV
    uv pip install --python RLDS_ENV/bin/python protobuf==6.33.0 tfrecord==1.14.6 crc32c numpy

A line is record, feature, kind, count and the SHA-256 of the values (float32, int64, or length and bytes of each).
"""

from __future__ import annotations

import argparse
import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description="Digest the features of TFRecord files.")
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--ours", action="store_true", help="with this repository's reader")
    arguments = parser.parse_args()
    for path in arguments.files:
        for number, features in enumerate(ours(path) if arguments.ours else theirs(path)):
            for name, value in sorted(features.items()):
                print(path.name, number, name, *digest(value))


def ours(path: Path) -> Iterator[dict[str, Any]]:
    from pi05_train.convert.tfrecord import parse_example, records

    for payload in records(path):
        yield parse_example(payload)


def theirs(path: Path) -> Iterator[dict[str, Any]]:
    from tfrecord.reader import tfrecord_iterator

    verify(path)
    message = example_class()
    for payload in tfrecord_iterator(str(path)):
        parsed = message.FromString(bytes(payload))
        yield {name: values_of(feature) for name, feature in parsed.features.feature.items()}


def verify(path: Path) -> None:
    """Both checksums of every record, by another implementation of CRC-32C."""
    from crc32c import crc32c

    def masked(content: bytes) -> int:
        crc = crc32c(content)
        return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF

    content = path.read_bytes()
    at = 0
    while at < len(content):
        length, crc = struct.unpack_from("<QI", content, at)
        assert crc == masked(content[at : at + 8]), f"length at {at}"
        payload = content[at + 12 : at + 12 + length]
        assert struct.unpack_from("<I", content, at + 12 + length)[0] == masked(payload), f"payload at {at}"
        at += length + 16


def example_class() -> Any:
    """tf.train.Example, declared as tensorflow/core/example/{example,feature}.proto declare it."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")
    kind = descriptor_pb2.FieldDescriptorProto

    def message(name: str, *fields: tuple[str, int, int, int, str]) -> Any:
        made = file.message_type.add(name=name)
        for field, number, label, type_, type_name in fields:
            made.field.add(name=field, number=number, label=label, type=type_, type_name=type_name or None)
        return made

    one, many = kind.LABEL_OPTIONAL, kind.LABEL_REPEATED
    message("BytesList", ("value", 1, many, kind.TYPE_BYTES, ""))
    message("FloatList", ("value", 1, many, kind.TYPE_FLOAT, ""))
    message("Int64List", ("value", 1, many, kind.TYPE_INT64, ""))
    lists = [("bytes_list", 1, ".t.BytesList"), ("float_list", 2, ".t.FloatList"), ("int64_list", 3, ".t.Int64List")]
    feature = message("Feature", *((name, number, one, kind.TYPE_MESSAGE, type_) for name, number, type_ in lists))
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    features = message("Features", ("feature", 1, many, kind.TYPE_MESSAGE, ".t.Features.FeatureEntry"))
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=one, type=kind.TYPE_STRING)
    entry.field.add(name="value", number=2, label=one, type=kind.TYPE_MESSAGE, type_name=".t.Feature")
    message("Example", ("features", 1, one, kind.TYPE_MESSAGE, ".t.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


def values_of(feature: Any) -> Any:
    which = feature.WhichOneof("kind")
    if which == "float_list":
        return np.array(feature.float_list.value, np.float32)
    if which == "int64_list":
        return np.array(feature.int64_list.value, np.int64)
    return list(feature.bytes_list.value)


def digest(value: Any) -> tuple[str, int, str]:
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.size, hashlib.sha256(value.tobytes()).hexdigest()
    joined = b"".join(struct.pack("<Q", len(item)) + item for item in value)
    return "bytes", len(value), hashlib.sha256(joined).hexdigest()


if __name__ == "__main__":
    main()
