"""The processes that write one checkpoint together, and how they talk while training goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch.distributed import ProcessGroup


@dataclass(frozen=True)
class Ranks:
    """This process among all; without a process group there is one process."""

    rank: int = 0
    size: int = 1
    group: ProcessGroup | None = None
    """Over gloo, and of nobody else: a thread may wait in it while the main thread is in a collective of the step."""

    @classmethod
    def join(cls) -> Ranks:
        """The processes that train together, every one of which calls this."""
        if not dist.is_initialized():
            return ONE_RANK
        return cls(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo"))

    def gather(self, value: Any) -> list[Any]:
        """The picklable value of every rank, by rank, on every rank."""
        if self.group is None:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.gather(None)


ONE_RANK = Ranks()
"""A process of its own."""
