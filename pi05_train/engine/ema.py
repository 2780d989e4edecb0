"""The exponential average of the weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import Parameter
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """fp32 copies of the parameters, averaged from step 0 on without warm-up (openpi scripts/train.py)."""

    def __init__(self, parameters: Mapping[str, Parameter], decay: float) -> None:
        self._parameters = parameters
        self._blend = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self.average = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """average <- decay * average + (1 - decay) * parameter."""
        self._blend(list(self.average.values()), [p.detach() for p in self._parameters.values()], 0)
