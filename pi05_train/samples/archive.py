"""`lowdim.npz`: a sample's arrays as a plain NumPy archive, written byte for byte alike and read without `zipfile`."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MEMBER = struct.Struct("<4s2xHH4xLLLHH")
"""Of a member's header: signature, flags, method, crc, stored size, size, lengths of the name and of what follows."""
_END = struct.Struct("<4s6xH10x")
"""Of the archive's last bytes: signature, number of members."""


def write_archive(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """What numpy.savez writes, with the time stamps fixed by us rather than by numpy's present habit."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0)), content.getvalue())
    return buffer.getvalue()


def read_archive(content: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of an archive by name, checksums verified; ten times as fast as numpy for one that we wrote.

    Raises ValueError, OSError, KeyError, EOFError or BadZipFile for a damaged one, or one with pickled objects.
    """
    arrays: dict[str, NDArray[Any]] = {}
    offset = 0
    while content.startswith(b"PK\3\4", offset) and offset + _MEMBER.size <= len(content):
        _, flags, method, crc, stored, size, name_length, extra_length = _MEMBER.unpack_from(content, offset)
        if flags or method or extra_length or stored != size:
            return _read_by_numpy(content)
        start = offset + _MEMBER.size + name_length
        offset = start + size
        member = content[start:offset]
        if zlib.crc32(member) != crc:
            raise ValueError("an array with another checksum")
        arrays[content[start - name_length : start].decode().removesuffix(".npy")] = _array(member)
    if len(content) < _END.size or _END.unpack(content[-_END.size :]) != (b"PK\5\6", len(arrays)):
        return _read_by_numpy(content)
    return arrays


def _read_by_numpy(content: bytes) -> dict[str, NDArray[Any]]:
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _array(member: bytes) -> NDArray[Any]:
    start = 10 + int.from_bytes(member[8:10], "little")
    shape, fortran, dtype = _array_header(member[:start])
    values: NDArray[Any] = np.frombuffer(member, dtype, offset=start).reshape(shape, order="F" if fortran else "C")
    return values.copy()


@lru_cache(maxsize=1024)
def _array_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether the first axis runs fastest, and dtype; the samples of a source have few different headers."""
    stream = io.BytesIO(header)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("an array in another format than numpy's first")
    return np.lib.format.read_array_header_1_0(stream)
