"""What a loader process does: a micro-batch's draws become samples, examples and one packed batch.

Every random number is keyed by the draw it belongs to, and whatever is fetched ahead is only fetched: neither changes
what a batch holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from torch.utils.data import Dataset

from pi05_train.data.loading.reader import Drawn, Fault, Reader
from pi05_train.data.order.schedule import Draw
from pi05_train.data.permutation import digest
from pi05_train.errors import UserError
from pi05_train.model.batch import Batch
from pi05_train.model.config import ModelConfig
from pi05_train.model.flow import flow_time
from pi05_train.processing.example import Example, FlowDraws, pack
from pi05_train.processing.processor import Pictures
from pi05_train.samples.schema import Sample


class ExampleMaker(Protocol):
    """What the loader needs of a processor."""

    model: ModelConfig

    def pictures(self, sample: Sample, *, key: tuple[int, ...], training: bool) -> Pictures: ...

    def example(self, pictures: Pictures) -> Example: ...

    def flow_dims(self, source: str) -> int: ...


@dataclass(frozen=True)
class Work:
    """One micro-batch to make, and the one that the same process will be asked for next."""

    draws: list[Draw]
    ahead: list[Draw]
    """Its bytes are fetched meanwhile; empty at the end."""


@dataclass(frozen=True)
class MicroBatch:
    """A packed batch, and the bad samples that were passed over on the way."""

    batch: Batch
    faults: tuple[Fault, ...]


class BatchMaker(Dataset["MicroBatch | UserError"]):
    """A map from work to a micro-batch; a UserError is handed over, since DataLoader would rebuild it wrongly."""

    def __init__(self, reader: Reader, processor: ExampleMaker, seed: int, flow_draws: int) -> None:
        self._reader = reader
        self._processor = processor
        self._seed = seed
        self._flow_draws = flow_draws
        self._ahead: tuple[list[Draw], Callable[[], list[bytes]]] = ([], list)

    def __getitem__(self, work: Work) -> MicroBatch | UserError:
        """First the pictures of all samples, then their texts and numbers: code that stays in the caches is faster."""
        draws, contents = self._ahead
        if draws != work.draws:
            contents = self._start(work.draws)
        self._ahead = work.ahead, self._start(work.ahead)
        try:
            seen = [self._see(draw, content) for draw, content in zip(work.draws, contents(), strict=True)]
            examples = [self._processor.example(one.value) for one in seen]
        except UserError as error:
            return error
        flow = [self._flow(draw, example) for draw, example in zip(work.draws, examples, strict=True)]
        batch = pack(examples, flow, [draw.draw for draw in work.draws], self._processor.model)
        return MicroBatch(batch, tuple(fault for one in seen for fault in one.faults))

    def _start(self, draws: Sequence[Draw]) -> Callable[[], list[bytes]]:
        return self._reader.start([(draw.source, draw.row) for draw in draws])

    def _see(self, draw: Draw, content: bytes) -> Drawn[Pictures]:
        key = (self._seed, int.from_bytes(digest("source", draw.source, size=7)), draw.draw)
        return self._reader.draw(draw, self._seed, partial(self._processor.pictures, key=key, training=True), content)

    def _flow(self, draw: Draw, example: Example) -> FlowDraws | None:
        if example.actions is None:
            return None
        dims, model = self._processor.flow_dims(draw.source), self._processor.model
        return make_flow_draws(self._seed, draw.source, draw.draw, self._flow_draws, model, dims=dims)


def make_flow_draws(seed: int, source: str, draw: int, count: int, model: ModelConfig, *, dims: int) -> FlowDraws:
    """The noise, 0 from dimension `dims` on, and the times of one draw; the first are the same for every `count`."""
    key = digest("flow", seed, source, draw, size=32)
    noise, time = (
        np.random.Generator(np.random.Philox(key=np.frombuffer(part, "<u8"))) for part in (key[:16], key[16:])
    )
    shape = (count, model.action_horizon, model.action_dim)
    time_K = flow_time(time.random(count)).astype(np.float32)
    noise_KHD = noise.standard_normal(shape, dtype=np.float32)
    noise_KHD[..., dims:] = 0
    return FlowDraws(noise_KHD, time_K)
