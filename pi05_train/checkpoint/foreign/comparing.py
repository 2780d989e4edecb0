"""Two checkpoints tensor by tensor, under our names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from pi05_train.checkpoint.foreign.layout import same_bits
from pi05_train.checkpoint.storage.source import TensorSource


@dataclass(frozen=True)
class Difference:
    """One tensor of either checkpoint."""

    name: str
    what: str
    """Of a tensor in both: "" where they hold the same bits, else a sentence part for a person."""
    missing_in: str = ""
    """"first" or "second": the checkpoint without it."""

    @property
    def equal(self) -> bool:
        return not (self.what or self.missing_in)


def compare(first: TensorSource, second: TensorSource) -> Iterator[Difference]:
    """Every tensor of either, in the order in which the first is best read."""
    for name, spec in first.specs.items():
        other = second.specs.get(name)
        if other is None:
            yield Difference(name, "", missing_in="second")
        elif other.shape != spec.shape:
            yield Difference(name, f"shape {list(spec.shape)} and {list(other.shape)}")
        else:
            yield Difference(name, _compared(first.read(name), second.read(name)))
    for name in second.specs:
        if name not in first.specs:
            yield Difference(name, "", missing_in="first")


def _compared(first: Tensor, second: Tensor) -> str:
    if same_bits(first, second):
        return ""
    dtypes = f"{_dtype(first)} and {_dtype(second)}, " if first.dtype != second.dtype else ""
    apart = (first.double() - second.double()).abs_()
    size = max(first.abs().max().item(), second.abs().max().item())
    rows = int((apart > 0).sum())
    return f"{dtypes}{rows} of {apart.numel()} numbers differ, by {apart.max().item():.3g} at most (largest {size:.3g})"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
