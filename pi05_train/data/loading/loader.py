"""From the schedule to packed batches, through PyTorch's stock DataLoader.

Worker processes change when a batch is ready, never what is in it.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterator
from itertools import chain, islice
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from pi05_train.data.loading.batch_maker import BatchMaker, ExampleMaker, MicroBatch, Work
from pi05_train.data.loading.micro_batches import Division
from pi05_train.data.loading.quarantine import Quarantine
from pi05_train.data.loading.reader import Reader
from pi05_train.data.order.mixture import Mixture
from pi05_train.data.order.schedule import Draw, Schedule
from pi05_train.data.permutation import permute
from pi05_train.errors import UserError
from pi05_train.model.batch import Batch
from pi05_train.samples.schema import Sample


class LostWorker(UserError):  # noqa: N818  it is what happened, not a fault of the program
    """A loader process has ended without being asked to."""


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
    quarantine: Quarantine,
    prefetch_batches: int = 2,
) -> Iterator[tuple[int, list[Batch]]]:
    """(step, this rank's micro-batches) for each step from `start_step` up to, not including, `stop_step`.

    The batches depend on the mixture, the schedule, the processor and the division only; `num_workers` processes (0:
    this one) prepare them, each `prefetch_batches` ahead and with one compute thread. Bad samples are substituted and
    added to the quarantine; a substitute may be longer than what the division counted on. Raises, with the worker's own
    sentence, every UserError of reader and processor, and `LostWorker`.
    """
    assert reader.mixture is mixture
    work = _WorkList(schedule, division, range(start_step, stop_step), lookahead=max(1, num_workers))
    loader: DataLoader[MicroBatch | UserError] = DataLoader(
        BatchMaker(reader, processor, schedule.seed, flow_draws),
        sampler=work,
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=num_workers,
        prefetch_factor=prefetch_batches if num_workers else None,
        multiprocessing_context=_context(mixture) if num_workers else None,
        generator=torch.Generator(),  # its own: the global one belongs to the caller
    )
    results = _results(loader)
    try:
        for step in range(start_step, stop_step):
            batches: list[Batch] = []
            first = next(results)  # only now is it sure that the step has been divided
            for result in chain([first], islice(results, work.numbers.popleft() - 1)):
                if isinstance(result, UserError):
                    raise result
                quarantine.add(result.faults, step=step)
                batches.append(result.batch)
            yield step, batches
    finally:
        del results  # ends the workers now; the traceback of an error would keep them until some garbage collection


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


def _results(loader: DataLoader[MicroBatch | UserError]) -> Iterator[MicroBatch | UserError]:
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise LostWorker(
            "a loader process",
            got=" ".join(str(error).split()),
            expected="one that lives",
            do="if memory was short lower data.workers or data.prefetch_batches; then resume the run",
        ) from error


class _WorkList:
    """The micro-batches of all steps, each with the one that comes `lookahead` later: the same process's next."""

    def __init__(self, schedule: Schedule, division: Division, steps: range, *, lookahead: int) -> None:
        self._schedule = schedule
        self._division = division
        self._steps = steps
        self._lookahead = lookahead
        self.numbers: deque[int] = deque()
        """How many micro-batches each step has that was divided and not yet asked after."""

    def __iter__(self) -> Iterator[Work]:
        waiting: deque[list[Draw]] = deque()
        for draws in self._micro_batches():
            waiting.append(draws)
            if len(waiting) > self._lookahead:
                yield Work(waiting.popleft(), draws)
        while waiting:
            yield Work(waiting.popleft(), [])

    def _micro_batches(self) -> Iterator[list[Draw]]:
        for step in self._steps:
            divided = self._division(self._schedule.draws(step))
            self.numbers.append(len(divided))
            yield from divided


def _context(mixture: Mixture) -> BaseContext | None:
    """How workers start; None is the system's way, a fork. The threads that read remote shards do not survive one."""
    if not mixture.remote:
        return None
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pi05_train.data.loading.batch_maker"])
    return context


def _as_it_is(made: Any) -> Any:
    """Nothing is left to collate."""
    return made
