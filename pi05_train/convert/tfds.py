"""What TFDS writes beside its TFRecord files: which shards there are, and what each feature of a record is.

`features.json` is a tree; here it becomes flat names joined by "/", as in the records. TFDS stores integers and
booleans as int64 lists, every float (float64 too) as float32 lists, and strings, encoded pictures and compressed
tensors as byte strings. A sequence puts its elements one behind the other.
Sources: tensorflow_datasets/core/{example_serializer,example_parser,features/*}.py, core/utils/shard_utils.py.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi05_train.convert.tfrecord import Value, record_offsets
from pi05_train.errors import UserError

_SHARD = re.compile(r"(?P<prefix>.+)-(?P<split>[^-.]+)\.tfrecord-(?P<shard>\d{5,})-of-(?P<shards>\d{5,})")
_AGAIN = "fetch the data set's files again"


@dataclass(frozen=True)
class Feature:
    """One leaf of features.json."""

    dtype: str
    """numpy's name; "string" for texts and encoded pictures."""
    shape: tuple[int, ...]
    """Of one element (of a picture: height, width, channels), -1 where it varies."""
    encoding: str = "none"
    """"none", or "bytes" and "zlib" for tensors that are stored as byte strings, "image" for image files."""
    sequences: int = 0
    """How many sequences the element stands in: 1 for what each step of an episode has."""


@dataclass(frozen=True)
class Shard:
    """One TFRecord file of a split."""

    path: Path
    first: int
    """Number of its first record; it does not depend on which other shards are there."""
    records: int
    """As dataset_info.json has it, or counted where it does not say."""


@dataclass(frozen=True)
class Split:
    """The shards of a split that are there."""

    shards: tuple[Shard, ...]
    absent: int
    """How many are not."""
    end: int
    """The number after the last record's."""


def read_features(folder: Path) -> dict[str, Feature]:
    """Every leaf of `features.json` by its flat name; refuses (UserError) a file that is missing or another kind's."""
    path = folder / "features.json"
    return dict(_leaves(_json(path), "", 0, path))


def _leaves(node: Any, name: str, sequences: int, path: Path) -> Iterator[tuple[str, Feature]]:
    if not isinstance(node, dict):
        raise UserError(f"{path}, {name or 'the whole'}", got=type(node).__name__, expected="an object", do=_AGAIN)
    try:
        if "featuresDict" in node:
            for key, child in node["featuresDict"].get("features", {}).items():
                yield from _leaves(child, f"{name}/{key}" if name else key, sequences, path)
        elif "sequence" in node:
            yield from _leaves(node["sequence"]["feature"], name, sequences + 1, path)
        elif "tensor" in node:
            tensor = node["tensor"]
            yield name, Feature(tensor["dtype"], _shape(tensor), tensor.get("encoding", "none"), sequences)
        elif "image" in node:
            yield name, Feature("string", _shape(node["image"]), "image", sequences)
        elif "text" in node:
            yield name, Feature("string", (), "none", sequences)
        elif "classLabel" in node:
            yield name, Feature("int64", (), "none", sequences)
        elif "pythonClassName" not in node:
            raise KeyError("featuresDict")
        # A class of features that no robot data set needs (video, audio ...): asking for it is refused by its name.
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{path}, {name or 'the top'}"
        raise UserError(what, got=f"no usable {error}", expected="a feature as TFDS writes it", do=_AGAIN) from error


def _shape(tensor: Mapping[str, Any]) -> tuple[int, ...]:
    """Dimensions are written as strings; an unknown one is absent or -1."""
    return tuple(int(size) for size in tensor["shape"].get("dimensions", ()))


def decode(value: Value, feature: Feature, elements: int, name: str) -> NDArray[Any] | list[bytes]:
    """`elements` of a feature (the steps of an episode; 1 outside of sequences) from what the record holds.

    Returns [elements, *shape] for tensors and a list of `elements` byte strings for texts and pictures. Raises
    ValueError saying what the record holds instead.
    """
    if feature.dtype == "string" and (feature.encoding == "image" or not feature.shape):
        if not isinstance(value, list) or len(value) != elements:
            raise ValueError(f"{name} holds {_describe(value)} instead of {elements} byte strings")
        return value
    if feature.dtype == "string":
        raise ValueError(f"{name} is a tensor of strings, which is not supported")
    if min(feature.shape, default=1) < 0:
        raise ValueError(f"{name} has the shape {list(feature.shape)}, which varies")
    dtype = np.dtype(feature.dtype)
    shape = (elements, *feature.shape)
    if feature.encoding in ("bytes", "zlib"):
        if not isinstance(value, list) or len(value) != elements:
            raise ValueError(f"{name} holds {_describe(value)} instead of {elements} encoded tensors")
        raw = b"".join(_unpacked(item, feature, name) for item in value)
        if len(raw) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name} holds {len(raw)} bytes instead of {math.prod(shape)} {dtype}")
        return np.frombuffer(raw, dtype).reshape(shape)
    expected = np.float32 if dtype.kind == "f" else np.int64
    if isinstance(value, list) or value.dtype != expected or value.size != math.prod(shape):
        raise ValueError(f"{name} holds {_describe(value)} instead of {math.prod(shape)} {np.dtype(expected)}")
    return value.reshape(shape).astype(dtype)


def _unpacked(item: bytes, feature: Feature, name: str) -> bytes:
    if feature.encoding != "zlib":
        return item
    try:
        return zlib.decompress(item)
    except zlib.error as error:
        raise ValueError(f"{name} holds bytes that zlib cannot unpack") from error


def _describe(value: Value) -> str:
    return f"{len(value)} byte strings" if isinstance(value, list) else f"{value.size} {value.dtype}"


def read_info(folder: Path) -> dict[str, Any]:
    """`dataset_info.json`, or {} where there is none; refuses (UserError) a damaged one, and files of another format
    than TFRecord."""
    path = folder / "dataset_info.json"
    if not path.is_file():
        return {}
    info: dict[str, Any] = _json(path)
    kind = info.get("fileFormat", "tfrecord") if isinstance(info, dict) else type(info).__name__
    if kind != "tfrecord":
        raise UserError(f"{path}, fileFormat", got=kind, expected="tfrecord", do="prepare the data set as TFRecord")
    splits = info.get("splits", [])
    if not isinstance(splits, list) or not all(isinstance(entry, dict) and _counted(entry) for entry in splits):
        raise UserError(f"{path}, splits", got=splits, expected="splits with their shardLengths", do=_AGAIN)
    return info


def _counted(split: dict[str, Any]) -> bool:
    lengths = split.get("shardLengths", [])
    return isinstance(lengths, list) and all(str(length).isdecimal() for length in lengths)


def splits_there(folder: Path) -> list[str]:
    """Names of the splits that have at least one shard in the folder, sorted."""
    return sorted({match["split"] for match in _shard_names(folder)})


def read_split(folder: Path, info: Mapping[str, Any], name: str, *, allow_missing: bool, first: int = 0) -> Split:
    """The split's shards in order, records numbered from `first` on.

    Refuses (UserError) a split without shards and one of which shards are absent; the latter not with `allow_missing`,
    when dataset_info.json tells how many records the absent ones have.
    """
    matches = [match for match in _shard_names(folder) if match["split"] == name]
    where = f"{folder}, split {name}"
    if not matches:
        raise UserError(where, got="no shards", expected=f"*-{name}.tfrecord-*-of-*", do=_other(folder))
    lengths = _lengths(info, name)
    totals = {int(match["shards"]) for match in matches} | ({len(lengths)} if lengths else set())
    if len(totals) > 1:
        raise UserError(where, got=f"shards of {sorted(totals)}", expected="one number of shards", do=_AGAIN)
    if len(prefixes := {match["prefix"] for match in matches}) > 1:
        raise UserError(where, got=f"files of {sorted(prefixes)}", expected="one data set", do="keep one of them")
    there = {int(match["shard"]): match for match in matches}
    absent = [shard for shard in range(totals.pop()) if shard not in there]
    if absent and not (allow_missing and lengths):
        do = "add --allow-missing to convert the others" if lengths else "fetch dataset_info.json and the shards"
        raise UserError(f"{where}, shards", got=f"{len(absent)} absent, first {absent[0]}", expected="none", do=do)
    paths = {shard: folder / there[shard].string for shard in sorted(there)}
    counts = lengths or [len(record_offsets(path)) for path in paths.values()]
    starts = [first + sum(counts[:shard]) for shard in range(len(counts) + 1)]
    return Split(
        tuple(Shard(path, starts[shard], counts[shard]) for shard, path in paths.items()), len(absent), starts[-1]
    )


def _lengths(info: Mapping[str, Any], split: str) -> list[int]:
    return [
        int(length)
        for entry in info.get("splits", [])
        if entry.get("name") == split
        for length in entry.get("shardLengths", [])
    ]


def _shard_names(folder: Path) -> list[re.Match[str]]:
    matches = (_SHARD.fullmatch(path.name) for path in sorted(folder.glob("*.tfrecord-*")))
    return [match for match in matches if match]


def _other(folder: Path) -> str:
    there = splits_there(folder)
    return f"name one of the splits {there}" if there else "point at the folder with the TFRecord files"


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        expected = "a folder that TFDS prepared: features.json beside the TFRecord files"
        raise UserError(f"{path}", got="no such file", expected=expected, do="point at that folder") from error
    except ValueError as error:
        raise UserError(f"{path}", got=error, expected="valid JSON", do=_AGAIN) from error
