"""How a model is spread over the ranks, in one visible order: activation checkpointing, then sharding."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch.nn.parallel import DistributedDataParallel

from pi05_train.config.run_parts import EngineConfig
from pi05_train.model.pi05 import Output, Pi05


@dataclass(frozen=True)
class Distributed:
    """A model on this rank's device, whose gradients are averaged over all ranks by the last backward of a step."""

    forward: Callable[..., Output]
    """`Pi05.forward`."""
    accumulating: Callable[[], AbstractContextManager[None]]
    """Entered around a forward and its backward: gradients stay on this rank, and nothing is communicated for them."""


def distribute(model: Pi05, engine: EngineConfig, device: torch.device) -> Distributed:
    """Spread `model` as `engine.name` says; its parameters stay fp32 under their names."""
    model.to(device)
    if engine.name == "ddp":
        replicated = DistributedDataParallel(model, gradient_as_bucket_view=True)
        return Distributed(replicated, replicated.no_sync)
    return Distributed(model, nullcontext)
