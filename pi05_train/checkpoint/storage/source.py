"""What every checkpoint format looks like from here: named tensors, described at once and read one at a time."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pi05_train.errors import UserError

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}
"""Every dtype a checkpoint may hold, by the name that a spec and a message give it."""


@dataclass(frozen=True)
class TensorSpec:
    """What is known of a tensor before its numbers are read."""

    shape: tuple[int, ...]
    dtype: str
    """A key of `DTYPES`."""

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size of its numbers, uncompressed."""
        return self.elements * self.torch_dtype.itemsize


def spec_of(tensor: Tensor) -> TensorSpec:
    """The spec that describes this tensor."""
    return TensorSpec(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def total_bytes(specs: Mapping[str, TensorSpec]) -> int:
    """Size of all their numbers, uncompressed."""
    return sum(spec.bytes for spec in specs.values())


class TensorSource(Protocol):
    """Named tensors that lie somewhere else."""

    @property
    def where(self) -> str:
        """Path or URL, for messages."""

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Every stored tensor; known without reading their numbers."""

    def read(self, name: str) -> Tensor:
        """The whole tensor in its stored dtype, on the CPU; it belongs to the source, so copy before writing to it.

        The last one is remembered: reading a name twice in a row costs nothing.
        """


class Source(ABC):
    """The part of `TensorSource` that all formats share. Holds one tensor at most."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.specs: dict[str, TensorSpec] = {}
        self._last: tuple[str, Tensor] | None = None

    def read(self, name: str) -> Tensor:
        if self._last is None or self._last[0] != name:
            assert name in self.specs, f"{self.where} holds no {name}"
            self._last = None  # before the next one takes its memory
            self._last = name, self._read(name)
        return self._last[1]

    @abstractmethod
    def _read(self, name: str) -> Tensor:
        """The tensor of a name in `specs`, from where it is stored."""


def announced(specs: Mapping[str, TensorSpec], tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """`tensors` as they come, each checked against its spec; every announced one must come exactly once.

    A difference is a fault of the program, not of the person, so it is an AssertionError. Whoever takes a tensor lets
    it go (`del`) before the next is asked for: two may not fit. `enumerate` and `zip` hold on to the last one.
    """
    left = dict(specs)
    for name, tensor in tensors:
        spec = left.pop(name, None)
        assert spec is not None, f"{name} was {'written twice' if name in specs else 'not announced'}"
        assert spec_of(tensor) == spec, f"{name} came as {spec_of(tensor)} and was announced as {spec}"
        yield name, tensor
        del tensor
    assert not left, f"{len(left)} announced tensors never came, the first is {min(left)}"


def half_there(where: str, what: str, got: str) -> UserError:
    """The refusal for a checkpoint of which a part is absent, cut off or scrambled."""
    return UserError(f"{what} in {where}", got=got, expected="a whole checkpoint", do="fetch or copy it again")
