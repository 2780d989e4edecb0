"""What the trainer asks of an engine, whichever way parameters are sharded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pi05_train.engine.world import World
from pi05_train.model.batch import Batch


@dataclass(frozen=True)
class Tally:
    """A sum of losses and the number of segments it is over."""

    total: float
    count: int


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did, over the whole global batch and all ranks."""

    loss: float
    """text mean + alpha * flow mean, as differentiated."""
    text: dict[str, Tally]
    """Per source: text losses, over its segments that carry labels."""
    flow: dict[str, Tally]
    """Per source: flow losses before alpha, over its segments that carry actions."""
    samples: dict[str, int]
    """Per source: segments in the batch."""
    tokens: int
    """Rows of the backbone stream: image, prompt and target tokens."""
    backbone_norm: float
    """Gradient norm before clipping."""
    expert_norm: float | None
    """Gradient norm before clipping; None where the step gave the expert no gradient."""

    @property
    def finite(self) -> bool:
        """Whether the weights may be changed by it."""
        return all(map(math.isfinite, (self.loss, self.backbone_norm, self.expert_norm or 0.0)))

    @property
    def text_loss(self) -> float | None:
        return mean(self.text)

    @property
    def flow_loss(self) -> float | None:
        return mean(self.flow)


def mean(tallies: dict[str, Tally]) -> float | None:
    """The mean loss over every source together; None where nothing was counted."""
    count = sum(tally.count for tally in tallies.values())
    return sum(tally.total for tally in tallies.values()) / count if count else None


class Engine(Protocol):
    """Owner of parameters, gradients, optimizer state and the averaged weights."""

    @property
    def world(self) -> World:
        """The ranks that train together."""

    @property
    def device_name(self) -> str:
        """The accelerator's own name ("NVIDIA H200"), or "cpu"."""

    def train_step(self, micro_batches: Sequence[Batch], *, learning_rate: float) -> StepResult:
        """One optimizer step over this rank's micro-batches of the global batch, as many on every rank.

        Losses are divided by counts over all micro-batches and ranks, so that neither changes the numbers. Raises
        UserError before any weight changes where a loss or gradient is not finite.
        """

    def state(self) -> dict[str, Any]:
        """Live tensors of everything a resumed run needs, nested dicts for torch.distributed.checkpoint.

        The keys do not change over the run, so that a fresh engine's state is the template to load into.
        """

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a state with the keys and shapes of `state()`."""
