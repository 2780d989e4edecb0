"""What all formats share: one tensor is held at a time, whatever reads and whatever writes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pi05_train.checkpoint.storage.orbax_write import write_orbax
from pi05_train.checkpoint.storage.safetensors_files import write_safetensors
from pi05_train.checkpoint.storage.source import Source, TensorSpec, spec_of, total_bytes
from tests.checkpoint.storage.made import specs, tensors

Write = Callable[[Path, Mapping[str, TensorSpec], Iterable[tuple[str, Tensor]]], None]


class Watched(Source):
    """Makes a tensor when asked for one, and looks whether an earlier one is still held."""

    def __init__(self) -> None:
        super().__init__("nowhere")
        self.specs = specs(tensors())
        self.made: list[weakref.ref[Tensor]] = []
        self.held = 0

    def _read(self, name: str) -> Tensor:
        self.held = max(self.held, sum(tensor() is not None for tensor in self.made))
        fresh = tensors()[name].clone()
        self.made.append(weakref.ref(fresh))
        return fresh


@pytest.mark.parametrize("write", [write_orbax, lambda folder, *rest: write_safetensors(folder / "x", *rest)])
def test_writing_lets_a_tensor_go_before_the_next_is_read(tmp_path: Path, write: Write) -> None:
    source = Watched()
    write(tmp_path, source.specs, ((name, source.read(name)) for name in source.specs))
    assert len(source.made) == len(source.specs)
    assert source.held == 0


def test_the_last_tensor_is_remembered_and_no_other() -> None:
    source = Watched()
    one, two, *_ = source.specs
    assert source.read(one) is source.read(one)
    source.read(two)
    assert source.made[0]() is None
    source.read(one)
    assert len(source.made) == 3


def test_sizes_are_those_of_the_numbers() -> None:
    for tensor in (torch.ones(2, 3), torch.ones(4, dtype=torch.bfloat16), torch.ones(()), torch.ones(0, 5)):
        assert (spec_of(tensor).bytes, spec_of(tensor).elements) == (tensor.nbytes, tensor.numel())
        assert total_bytes({"a": spec_of(tensor), "b": spec_of(tensor)}) == 2 * tensor.nbytes
