"""Arrays of the zarr format, version 2, whose chunks are unpacked straight into their place.

tensorstore reads them too, but holds an array's packed and unpacked chunk beside the array; a checkpoint saved on one
host has each array as one chunk, of up to 5 GB. Here a chunk comes in blocks.
"""

from __future__ import annotations

import io
import itertools
import json
import math
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow
import tensorstore as ts
import torch
from numpy.typing import NDArray
from torch import Tensor

from pi05_train.checkpoint.storage.place import BLOCK_BYTES, BLOCK_SECONDS, Place
from pi05_train.checkpoint.storage.source import DTYPES, TensorSpec, half_there
from pi05_train.errors import UserError

OUR_DTYPES = {"bfloat16": "bfloat16", "b1": "bool"} | {
    f"{word[0]}{bits // 8}": f"{word}{bits}"
    for word in ("float", "int", "uint")
    for bits in (8, 16, 32, 64)
    if f"{word}{bits}" in DTYPES
}
"""zarr's dtype without its byte order -> ours."""
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes of a number -> the dtype under which its bits pass through numpy, which knows no bfloat16."""
Bits = NDArray[Any]


@dataclass(frozen=True)
class ZarrArray:
    """One array of a database."""

    name: str
    """It is described by the key `<name>/.zarray`; its chunks are `<name>/0.0.1` and so on."""
    spec: TensorSpec
    chunk: tuple[int, ...]
    packed: bool
    plain: bool
    """Whether `read` knows the packing; tensorstore reads the others."""

    def chunks(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Key and first index of every chunk; a single number counts as an array of one."""
        shape, steps = self.spec.shape or (1,), self.chunk or (1,)
        for start in itertools.product(*(range(0, size, step) for size, step in zip(shape, steps, strict=True))):
            index = (str(at // step) for at, step in zip(start, steps, strict=True))
            yield f"{self.name}/{'.'.join(index)}", start


def parse(name: str, metadata: bytes, where: str) -> ZarrArray:
    """The array that a `.zarray` describes."""
    described: dict[str, Any] = json.loads(metadata)
    dtype, packing = described["dtype"], described["compressor"]
    ours = OUR_DTYPES.get(dtype.lstrip("<>|")) if isinstance(dtype, str) else None
    if ours is None:
        raise UserError(
            f"array {name} in {where}",
            got=f"dtype {dtype}",
            expected=f"one of {', '.join(DTYPES)}",
            do="save the checkpoint without that array",
        )
    layout = described["order"], described.get("dimension_separator", "."), described["filters"]
    known = packing is None or packing["id"] == "zstd"
    return ZarrArray(
        name,
        TensorSpec(tuple(described["shape"]), ours),
        tuple(described["chunks"]),
        packed=packing is not None,
        plain=known and layout == ("C", ".", None) and not dtype.startswith(">"),
    )


def read(array: ZarrArray, database: Place, keys: Container[str]) -> Tensor:
    """The whole array, in memory of its own size and some blocks; a chunk that is not among the stored `keys` is zeros.

    Chunks narrower than the array take one of their rows (first axis) more.
    """
    if not array.plain:
        return _read_by_tensorstore(array, database)
    out = torch.zeros(array.spec.shape or (1,), dtype=array.spec.torch_dtype)
    bits, steps = out.view(BITS[out.itemsize]).numpy(), array.chunk or (1,)
    for key, start in array.chunks():
        if key not in keys:
            continue
        blocks = _Blocks(database.blocks(key, f"array {array.name}"))
        window = bits[tuple(slice(at, at + step) for at, step in zip(start, steps, strict=True))]
        try:
            _fill(window, steps, _unpacked(blocks) if array.packed else blocks)
        except (OSError, EOFError) as error:
            raise half_there(database.where, f"array {array.name}", f"numbers that do not unpack ({error})") from error
    return out.reshape(array.spec.shape)


def _read_by_tensorstore(array: ZarrArray, database: Place) -> Tensor:
    what = f"array {array.name}"
    opened = database.wait(ts.open({"driver": "zarr", "kvstore": database.json() | {"path": f"{array.name}/"}}), what)
    numbers = np.ascontiguousarray(database.wait(opened.read(), what, BLOCK_SECONDS))
    dtype = array.spec.torch_dtype
    return torch.from_numpy(numbers.reshape(-1).view(np.uint8)).view(dtype).reshape(array.spec.shape)


def _fill(window: Bits, chunk: tuple[int, ...], stream: Any) -> None:
    """The numbers of a chunk into their place; a chunk at the end of an axis may reach beyond it."""
    if window.flags.c_contiguous and window.shape[1:] == chunk[1:]:
        _read_into(window, stream)
        return
    rows = max(1, BLOCK_BYTES // (window.itemsize * math.prod(chunk[1:])))
    block = np.empty((min(rows, len(window)), *chunk[1:]), window.dtype)
    inside = tuple(slice(size) for size in window.shape[1:])
    for first in range(0, len(window), rows):
        some = block[: len(window) - first]
        _read_into(some, stream)
        window[first : first + rows] = some[:, *inside]


def _read_into(numbers: Bits, stream: Any) -> None:
    view, at = numbers.reshape(-1).view(np.uint8).data, 0
    while at < len(view):
        count = stream.readinto(view[at : at + BLOCK_BYTES])
        if not count:
            raise EOFError(f"they end {len(view) - at} bytes early")
        at += count


def _unpacked(blocks: _Blocks) -> Any:
    return pyarrow.CompressedInputStream(pyarrow.PythonFile(blocks, mode="r"), "zstd")


class _Blocks(io.RawIOBase):
    """Blocks one after the other as a file."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._block = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._block:
            self._block = memoryview(next(self._blocks, b""))
        count = min(len(buffer), len(self._block))
        buffer[:count], self._block = self._block[:count], self._block[count:]
        return count
