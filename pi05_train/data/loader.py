"""From the schedule to packed batches, through PyTorch's stock DataLoader.

Every random number is keyed by the draw it belongs to. Worker processes therefore change when a batch is ready, never
what is in it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from pi05_train.data.micro_batches import Division
from pi05_train.data.mixture import Mixture
from pi05_train.data.permutation import digest, permute
from pi05_train.data.quarantine import Quarantine
from pi05_train.data.reader import Drawn, Fault, Reader
from pi05_train.data.schedule import Draw, Schedule
from pi05_train.errors import UserError
from pi05_train.model.batch import Batch
from pi05_train.model.config import ModelConfig
from pi05_train.model.flow import flow_time
from pi05_train.processing.example import Example, FlowDraws, pack
from pi05_train.samples.schema import Sample


class ExampleMaker(Protocol):
    """What the loader needs of a processor."""

    model: ModelConfig

    def __call__(self, sample: Sample, *, key: tuple[int, ...], training: bool) -> Example: ...

    def flow_dims(self, source: str) -> int: ...


def make_loader(
    mixture: Mixture,
    schedule: Schedule,
    reader: Reader,
    processor: ExampleMaker,
    *,
    division: Division,
    flow_draws: int,
    start_step: int,
    stop_step: int,
    num_workers: int,
    run_folder: Path,
) -> Iterator[tuple[int, list[Batch]]]:
    """(step, this rank's micro-batches) for each step from `start_step` up to, not including, `stop_step`.

    The batches depend on the mixture, the schedule, the processor and the division only; `num_workers` processes (0:
    this one) prepare them ahead of time, each with one compute thread. Bad samples are substituted and listed in
    `run_folder/quarantine.jsonl`; a substitute may be longer than what the division counted on. Raises, with the
    worker's own sentence, every UserError of reader and processor.
    """
    assert reader.mixture is mixture
    micro_batches = _MicroBatches(schedule, division, start_step, stop_step)
    loader: DataLoader[Drawn[_Item] | UserError] = DataLoader(
        _Draws(reader, processor, schedule.seed, flow_draws),
        batch_sampler=micro_batches,
        collate_fn=_Collate(processor.model),
        num_workers=num_workers,
        generator=torch.Generator(),  # its own: the global one belongs to the caller
    )
    quarantine = Quarantine(run_folder, mixture)
    results = iter(loader)
    try:
        for step in range(start_step, stop_step):
            batches: list[Batch] = []
            first = next(results)  # only now is it sure that the step has been divided
            for result in chain([first], islice(results, micro_batches.numbers.popleft() - 1)):
                if isinstance(result, UserError):
                    raise result
                draws = (step + 1 - start_step) * schedule.global_batch
                quarantine.record(result.faults, step=step, draws=draws)
                batches.append(result.batch)
            yield step, batches
    finally:
        del results  # ends the workers now; the traceback of an error would keep them until some garbage collection


def make_flow_draws(seed: int, source: str, draw: int, count: int, model: ModelConfig, *, dims: int) -> FlowDraws:
    """The noise, 0 from dimension `dims` on, and the times of one draw; the first are the same for every `count`."""
    key = digest("flow", seed, source, draw, size=32)
    noise, time = (
        np.random.Generator(np.random.Philox(key=np.frombuffer(part, "<u8"))) for part in (key[:16], key[16:])
    )
    shape = (count, model.action_horizon, model.action_dim)
    time_K = flow_time(torch.from_numpy(time.random(count))).numpy().astype(np.float32)
    noise_KHD = noise.standard_normal(shape, dtype=np.float32)
    noise_KHD[..., dims:] = 0
    return FlowDraws(noise_KHD, time_K)


def heldout_samples(mixture: Mixture, reader: Reader, per_source: int) -> dict[str, list[Sample]]:
    """The first `per_source` rows (or all, if fewer) of each source in a keyed order that no seed changes.

    `mixture` was opened with split="heldout". A bad sample raises: evaluation never measures on substitutes.
    """
    assert mixture.filters.split == "heldout"
    chosen: dict[str, list[Sample]] = {}
    for name, size in zip(mixture.names, mixture.sizes, strict=True):
        rows = permute(np.arange(min(per_source, size)), size, "heldout", name)
        chosen[name] = list(reader.read_all(name, rows.tolist()))
    return chosen


@dataclass(frozen=True)
class _Item:
    draw: Draw
    example: Example
    flow: FlowDraws | None


@dataclass(frozen=True)
class _MicroBatch:
    batch: Batch
    faults: tuple[Fault, ...]


class _Draws(Dataset["Drawn[_Item] | UserError"]):
    """A map from a draw to what it becomes; a UserError is handed over, since DataLoader would rebuild it wrongly."""

    def __init__(self, reader: Reader, processor: ExampleMaker, seed: int, flow_draws: int) -> None:
        self._reader = reader
        self._processor = processor
        self._seed = seed
        self._flow_draws = flow_draws

    def __getitem__(self, draw: Draw) -> Drawn[_Item] | UserError:
        key = (self._seed, int.from_bytes(digest("source", draw.source, size=7)), draw.draw)
        try:
            drawn = self._reader.draw(draw, self._seed, partial(self._processor, key=key, training=True))
        except UserError as error:
            return error
        flow = None
        if drawn.value.actions is not None:
            dims, model = self._processor.flow_dims(draw.source), self._processor.model
            flow = make_flow_draws(self._seed, draw.source, draw.draw, self._flow_draws, model, dims=dims)
        return Drawn(_Item(draw, drawn.value, flow), drawn.faults)


class _MicroBatches:
    """The draws of each micro-batch, step after step."""

    def __init__(self, schedule: Schedule, division: Division, start_step: int, stop_step: int) -> None:
        self._schedule = schedule
        self._division = division
        self._steps = range(start_step, stop_step)
        self.numbers: deque[int] = deque()
        """How many micro-batches each step has that was divided and not yet asked after."""

    def __iter__(self) -> Iterator[list[Draw]]:
        for step in self._steps:
            divided = self._division(self._schedule.draws(step))
            self.numbers.append(len(divided))
            yield from divided


class _Collate:
    """Packs in the worker, so that only whole tensors cross to the main process."""

    def __init__(self, model: ModelConfig) -> None:
        self._model = model

    def __call__(self, results: Sequence[Drawn[_Item] | UserError]) -> _MicroBatch | UserError:
        drawn: list[Drawn[_Item]] = []
        for result in results:
            if isinstance(result, UserError):
                return result
            drawn.append(result)
        items = [one.value for one in drawn]
        batch = pack(
            [item.example for item in items],
            [item.flow for item in items],
            [item.draw.draw for item in items],
            self._model,
        )
        return _MicroBatch(batch, tuple(fault for one in drawn for fault in one.faults))
