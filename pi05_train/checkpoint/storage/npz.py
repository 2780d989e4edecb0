"""big_vision's weights: a numpy .npz whose members are arrays of the parameter tree."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from pi05_train.checkpoint.storage.source import DTYPES, Source, TensorSpec, half_there
from pi05_train.errors import UserError

ROOT = "params/"
BFLOAT16 = np.dtype("V2")
"""numpy has no bfloat16: big_vision stores its bits as two bytes without a meaning (`utils.py` recover_dtype)."""


class NpzSource(Source):
    """The arrays of a .npz, packed or not, named as stored without a leading `params/`; read member by member."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        if not path.is_file():
            raise UserError(f"weights {path}", got="no such file", expected="a .npz", do="check the path")
        self._path = path
        try:
            with zipfile.ZipFile(path) as archive:
                members = [name for name in archive.namelist() if name.endswith(".npy")]
                self._members = {name.removesuffix(".npy").removeprefix(ROOT): name for name in members}
                self.specs = {name: self._spec(archive, member) for name, member in self._members.items()}
        except (zipfile.BadZipFile, ValueError, EOFError, OSError, zlib.error) as error:
            if isinstance(error, UserError):
                raise
            raise half_there(self.where, "weights", f"a file that does not read as .npz ({error})") from error

    def _spec(self, archive: zipfile.ZipFile, member: str) -> TensorSpec:
        with archive.open(member) as file:
            version = npy.read_magic(file)
            read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = read_header(file)
        name = "bfloat16" if dtype == BFLOAT16 else dtype.name
        if name not in DTYPES:
            raise UserError(
                f"array {member} in {self.where}",
                got=f"dtype {dtype}",
                expected=f"one of {', '.join(DTYPES)}",
                do="save the weights without it",
            )
        return TensorSpec(shape, name)

    def _read(self, name: str) -> Tensor:
        try:
            with zipfile.ZipFile(self._path) as archive, archive.open(self._members[name]) as file:
                array = npy.read_array(file, allow_pickle=False)
        except (zipfile.BadZipFile, ValueError, EOFError, OSError, zlib.error) as error:
            raise half_there(self.where, f"array {name}", f"numbers that do not read ({error})") from error
        dtype = self.specs[name].torch_dtype
        if array.dtype == BFLOAT16:
            array = array.view(np.int16)
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape)
        return torch.from_numpy(array).view(dtype)
