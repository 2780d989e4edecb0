"""A tensor source in memory that counts how often its tensors were really read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from torch import Tensor

from pi05_train.checkpoint.storage.source import Source, spec_of


class DictSource(Source):
    def __init__(self, tensors: Mapping[str, Tensor], where: str = "memory") -> None:
        super().__init__(where)
        self._tensors = tensors
        self.specs = {name: spec_of(tensor) for name, tensor in tensors.items()}
        self.reads: Counter[str] = Counter()

    def _read(self, name: str) -> Tensor:
        self.reads[name] += 1
        return self._tensors[name]


def read_all(source: Source) -> dict[str, Tensor]:
    return {name: source.read(name) for name in source.specs}
