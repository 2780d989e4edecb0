"""safetensors: a header in JSON, then the numbers. Files, folders of several, and a writer that never holds them all.

The format is public: eight bytes of header length, the header (name -> dtype, shape, begin and end of its bytes counted
from the header's end), the numbers without gaps.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from pi05_train.checkpoint.storage.source import Source, TensorSpec, announced, half_there
from pi05_train.errors import UserError

OUR_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8",
    "BOOL": "bool",
}  # fmt: skip
"""The format's names -> ours."""
INDEX = "model.safetensors.index.json"
SINGLE = ("model.safetensors", "weights.safetensors")
METADATA = "__metadata__"
LONGEST_HEADER = 100_000_000
"""The format's own bound."""


@dataclass(frozen=True)
class _Stored:
    spec: TensorSpec
    file: Path
    begin: int


class SafetensorsSource(Source):
    """A file, or a folder with `model.safetensors`, `weights.safetensors`, or shards and their index."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.metadata: dict[str, str] = {}
        """Free text of the files' headers; names of tied tensors left out point here to the one that was kept."""
        self._stored: dict[str, _Stored] = {}
        for file in _files(path):
            stored, metadata = _header(file)
            self._stored |= stored
            self.metadata |= metadata
        self.specs = {name: stored.spec for name, stored in self._stored.items()}
        _check_index(path, self.specs)

    def _read(self, name: str) -> Tensor:
        stored = self._stored[name]
        out = torch.empty(stored.spec.shape, dtype=stored.spec.torch_dtype)
        view = _bytes_of(out)
        with stored.file.open("rb", buffering=0) as file:
            file.seek(stored.begin)
            at = 0
            while at < len(view):
                count = file.readinto(view[at:])
                if not count:
                    raise half_there(str(stored.file), f"tensor {name}", "a file that became shorter")
                at += count
        return out


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    single = next((path / name for name in SINGLE if (path / name).is_file()), None)
    if single is not None:
        return [single]
    if not (path / INDEX).is_file():
        raise UserError(
            f"weights in {path}",
            got="no such folder or file" if not path.exists() else f"none of {', '.join((*SINGLE, INDEX))}",
            expected="safetensors",
            do="check the path",
        )
    names = sorted(set(_index(path).values()))
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        raise half_there(str(path), f"weights listed by {INDEX}", f"no {', '.join(missing)}")
    return [path / name for name in names]


def _index(path: Path) -> dict[str, str]:
    """Tensor name -> file name, of a folder of shards."""
    try:
        names: dict[str, str] = json.loads((path / INDEX).read_text())["weight_map"]
        return dict(names)
    except (ValueError, KeyError, TypeError) as error:
        raise half_there(str(path), INDEX, f"content that does not read ({error!r})") from error


def _check_index(path: Path, specs: Mapping[str, TensorSpec]) -> None:
    if any((path / name).is_file() for name in SINGLE) or not (path / INDEX).is_file():
        return
    missing = sorted(_index(path).keys() - specs.keys())
    if missing:
        got = f"none: {len(missing)} tensors that {INDEX} lists are missing"
        raise half_there(str(path), f"tensor {missing[0]}", got)


def _header(file: Path) -> tuple[dict[str, _Stored], dict[str, str]]:
    """Every tensor of a file and its free text, from the header alone; its sizes must add up to the file's."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = struct.unpack("<Q", opened.read(8).ljust(8, b"\xff"))[0]
        if length > min(LONGEST_HEADER, size):
            raise half_there(str(file), "header", f"a file of {size} bytes that does not begin as safetensors do")
        text = opened.read(length)
    try:
        header: dict[str, Any] = json.loads(text)
        metadata = dict(header.pop(METADATA, None) or {})
        entries = {name: (it["dtype"], tuple(it["shape"]), *it["data_offsets"]) for name, it in header.items()}
        end = max((entry[-1] for entry in entries.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise half_there(str(file), "header", f"content that does not read ({error!r})") from error
    if 8 + length + end != size:
        raise half_there(str(file), "weights", f"{size} bytes where the header promises {8 + length + end}")
    return {name: _stored(file, name, 8 + length, *entry) for name, entry in entries.items()}, metadata


def _stored(file: Path, name: str, start: int, dtype: str, shape: tuple[int, ...], begin: int, end: int) -> _Stored:
    if dtype not in OUR_DTYPES:
        raise UserError(
            f"tensor {name} in {file}",
            got=f"dtype {dtype}",
            expected=f"one of {', '.join(OUR_DTYPES)}",
            do="save it in one of these",
        )
    spec = TensorSpec(shape, OUR_DTYPES[dtype])
    if end - begin != spec.bytes:
        raise half_there(str(file), f"tensor {name}", f"{end - begin} bytes for {dtype} of shape {list(shape)}")
    return _Stored(spec, file, start + begin)


def write_safetensors(
    path: Path,
    specs: Mapping[str, TensorSpec],
    tensors: Iterable[tuple[str, Tensor]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write `path` with every tensor of `specs`; `tensors` come in any order and are let go one by one.

    Longer numbers lie first, so that all are aligned. `metadata` defaults to what loaders of torch expect.
    """
    header: dict[str, Any] = {METADATA: dict(metadata or {"format": "pt"})}
    names = {ours: theirs for theirs, ours in OUR_DTYPES.items()}
    begins, at = {}, 0
    for name, spec in sorted(specs.items(), key=lambda item: -item[1].torch_dtype.itemsize):
        begins[name] = at
        header[name] = {
            "dtype": names[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [at, at := at + spec.bytes],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb", buffering=0) as file:
        os.truncate(file.fileno(), 8 + len(text) + at)
        _write(file, 0, memoryview(struct.pack("<Q", len(text)) + text))
        for name, tensor in announced(specs, tensors):
            _write(file, 8 + len(text) + begins[name], _bytes_of(tensor.detach().cpu().contiguous()))
            del tensor


def _write(file: BinaryIO, begin: int, view: memoryview) -> None:
    file.seek(begin)
    at = 0
    while at < len(view):
        at += file.write(view[at:])


def _bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor, not copied."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data
