"""TFDS folders written by the tests themselves: their own TFRecord framing, checksum, protobuf and features.json.

Nothing of pi05_train is used here, so that writer and reader cannot be wrong together.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Stored = NDArray[Any] | Sequence[bytes]


def _one_byte(crc: int) -> int:
    for _ in range(8):
        crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc


_CRC_OF_BYTE = [_one_byte(byte) for byte in range(256)]


def crc32c(content: bytes) -> int:
    """The Castagnoli checksum, byte by byte (RFC 3720, appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = (crc >> 8) ^ _CRC_OF_BYTE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def masked(content: bytes) -> bytes:
    crc = crc32c(content)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def framed(payload: bytes) -> bytes:
    length = struct.pack("<Q", len(payload))
    return length + masked(length) + payload + masked(payload)


def varint(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def delimited(number: int, body: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(body)) + body


def feature(value: Stored, *, packed: bool = True) -> bytes:
    """A tf.train.Feature: numpy floats, numpy integers and booleans, or byte strings."""
    if not isinstance(value, np.ndarray):
        return delimited(1, b"".join(delimited(1, item) for item in value))
    flat = value.reshape(-1)
    if value.dtype.kind == "f":
        items = [struct.pack("<f", item) for item in flat]
        return delimited(2, delimited(1, b"".join(items)) if packed else b"".join(b"\x0d" + item for item in items))
    items = [varint(int(item)) for item in flat]
    return delimited(3, delimited(1, b"".join(items)) if packed else b"".join(b"\x08" + item for item in items))


def example(features: Mapping[str, Stored], *, packed: bool = True) -> bytes:
    """A tf.train.Example."""
    entries = [
        delimited(1, delimited(1, name.encode()) + delimited(2, feature(value, packed=packed)))
        for name, value in features.items()
    ]
    return delimited(1, b"".join(entries))


def tensor(dtype: str, *shape: int, encoding: str = "none") -> dict[str, Any]:
    """A leaf of features.json as TFDS writes it: dimensions are strings, a scalar has none."""
    sizes = {"dimensions": [str(size) for size in shape]} if shape else {}
    return {"pythonClassName": "Tensor", "tensor": {"shape": sizes, "dtype": dtype, "encoding": encoding}}


def image(*shape: int) -> dict[str, Any]:
    sizes = {"dimensions": [str(size) for size in shape]}
    return {"pythonClassName": "Image", "image": {"shape": sizes, "dtype": "uint8", "encodingFormat": "png"}}


TEXT = {"pythonClassName": "Text", "text": {}}
BOOL = tensor("bool")


def tree(features: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries of leaves as a FeaturesDict."""
    children = {key: value if "pythonClassName" in value else tree(value) for key, value in features.items()}
    return {"pythonClassName": "FeaturesDict", "featuresDict": {"features": children}}


def dataset(steps: Mapping[str, Any], **others: Any) -> dict[str, Any]:
    """features.json of episodes with these features per step."""
    return tree({"steps": {"pythonClassName": "Dataset", "sequence": {"feature": tree(steps)}}, **others})


def write_folder(
    folder: Path,
    features: Mapping[str, Any],
    shards: Sequence[Sequence[Mapping[str, Stored]]],
    *,
    name: str = "toy",
    split: str = "train",
    info: bool = True,
) -> Path:
    """A TFDS folder with these records per shard; called again for another split, it adds to it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "features.json").write_text(json.dumps(features))
    for number, records in enumerate(shards):
        path = folder / f"{name}-{split}.tfrecord-{number:05d}-of-{len(shards):05d}"
        path.write_bytes(b"".join(framed(example(record)) for record in records))
    place = folder / "dataset_info.json"
    old = json.loads(place.read_text())["splits"] if place.is_file() else []
    entry = {"name": split, "shardLengths": [str(len(records)) for records in shards]}
    if info:
        content = {"fileFormat": "tfrecord", "name": name, "version": "1.0.0", "splits": [*old, entry]}
        place.write_text(json.dumps(content))
    return folder


def picture_file(pixels: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()
