"""The exponential average of the weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Parameter
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """fp32 averages of the parameters, from step 0 on without warm-up (openpi scripts/train.py).

    A frozen parameter is its own average: no copy of it is kept.
    """

    def __init__(self, parameters: Mapping[str, Parameter], decay: float) -> None:
        self._trained = {name: p for name, p in parameters.items() if p.requires_grad}
        self._blend = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self.average = {
            name: p.detach().clone() if name in self._trained else p.detach() for name, p in parameters.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """average <- decay * average + (1 - decay) * parameter."""
        averages = [_own(self.average[name]) for name in self._trained]
        self._blend(averages, [_own(p.detach()) for p in self._trained.values()], 0)


def _own(value: Tensor) -> Tensor:
    """What this rank holds of a tensor."""
    return value.to_local() if isinstance(value, DTensor) else value
