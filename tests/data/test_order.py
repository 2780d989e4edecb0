"""Which samples a run sees, through the real loader: exactly those of the schedule, whoever reads them and whenever."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections import Counter
from itertools import chain, pairwise
from pathlib import Path

import pytest

from pi05_train.data.loading.loader import LostWorker, make_loader
from pi05_train.data.loading.micro_batches import of_equal_number
from pi05_train.data.loading.quarantine import Quarantine
from pi05_train.data.loading.reader import Reader
from pi05_train.data.order.mixture import Mixture
from pi05_train.data.order.schedule import Schedule, rank_slice
from pi05_train.model.batch import Batch
from pi05_train.processing.processor import Processor
from pi05_train.samples.card import SourceCard
from pi05_train.samples.mixture_config import FilterConfig, MixtureConfig, PhaseEntry, SourceEntry
from tests.data.batches import assert_equal_batches
from tests.synthetic_processor import synthetic_processor

BATCH, STEPS, CHANGE = 12, 12, 5
"""The web source has 30 training rows and a quarter of the draws: its second epoch begins in step 10."""

World = tuple[Path, dict[str, SourceCard]]
Loaded = list[tuple[int, list[Batch]]]


@pytest.fixture(scope="module")
def world(synthetic_world: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    root = shutil.copytree(synthetic_world[0], tmp_path_factory.mktemp("order") / "world")
    return root, {name: synthetic_world[1][name] for name in ("toy_arm", "toy_web")}


@pytest.fixture(scope="module")
def processor(world: World) -> Processor:
    return synthetic_processor(*world)


@pytest.fixture(scope="module")
def mixture(world: World) -> Mixture:
    """Two sources in two phases."""
    root, cards = world
    entries = {"toy_arm": SourceEntry(cards["toy_arm"], 3.0), "toy_web": SourceEntry(cards["toy_web"], 1.0)}
    phases = {"later": PhaseEntry(CHANGE, {"toy_arm": 1.0, "toy_web": 1.0})}
    return Mixture.open(MixtureConfig("two", entries, FilterConfig(), phases=phases), root)


def load(
    mixture: Mixture, processor: Processor, run: Path, steps: range, *, rank: int = 0, ranks: int = 1, workers: int = 0
) -> Loaded:
    return list(
        make_loader(
            mixture,
            mixture.schedule(5, BATCH, STEPS),
            Reader(mixture),
            processor,
            division=of_equal_number(3, rank=rank, world_size=ranks),
            flow_draws=1,
            start_step=steps.start,
            stop_step=steps.stop,
            num_workers=workers,
            quarantine=Quarantine(run, mixture),
        )
    )


@pytest.fixture(scope="module")
def whole(mixture: Mixture, processor: Processor, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return load(mixture, processor, tmp_path_factory.mktemp("whole"), range(STEPS))


def test_a_run_resumed_again_and_again_is_the_uninterrupted_one(
    mixture: Mixture, processor: Processor, whole: Loaded, tmp_path: Path
) -> None:
    """Failure test 2: three times inside an epoch, where an epoch ends, and where a phase begins."""
    schedule = mixture.schedule(5, BATCH, STEPS)
    ends = [
        step
        for step in range(STEPS)
        if int(schedule.epochs(step)["toy_web"]) < int(schedule.epochs(step + 1)["toy_web"])
    ]
    assert ends
    stops = sorted({0, 1, 2, 3, CHANGE, *(step + 1 for step in ends), STEPS})
    parts = [load(mixture, processor, tmp_path, range(*span)) for span in pairwise(stops)]
    assert_equal_batches(list(chain(*parts)), whole)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_resumed_with_other_ranks_and_workers_the_global_batches_stay(
    mixture: Mixture, processor: Processor, whole: Loaded, tmp_path: Path
) -> None:
    """Failure test 3: 4, 2 and 1 ranks with 2, 0 and 3 workers; micro-batches of 3 make each rank's part whole."""
    for ranks, workers, steps in ((4, 2, range(2)), (2, 0, range(2, 7)), (1, 3, range(7, STEPS))):
        parts = [
            load(mixture, processor, tmp_path, steps, rank=rank, ranks=ranks, workers=workers if rank == 0 else 0)
            for rank in range(ranks)
        ]
        joined = [(step, [batch for part in parts for batch in part[place][1]]) for place, step in enumerate(steps)]
        assert_equal_batches(joined, whole[steps.start : steps.stop])


def test_every_rank_together_sees_each_sample_once_per_epoch(
    mixture: Mixture, processor: Processor, tmp_path: Path
) -> None:
    """Failure test 13: nothing twice, nothing left out, over ranks and workers."""
    parts = [load(mixture, processor, tmp_path, range(STEPS), rank=rank, ranks=2, workers=rank) for rank in range(2)]
    drawn = {
        (segment.source, segment.draw): segment.key
        for _, batches in chain(*parts)
        for batch in batches
        for segment in batch.segments
    }
    assert len(drawn) == BATCH * STEPS
    for source, size in zip(mixture.names, mixture.sizes, strict=True):
        keys = [key for (name, _), key in sorted(drawn.items()) if name == source]
        epochs = [keys[start : start + size] for start in range(0, len(keys), size)]
        assert all(set(Counter(epoch).values()) == {1} for epoch in epochs)
        assert len(epochs) > 1
        assert epochs[0] != epochs[1][: len(epochs[0])]


@pytest.mark.parametrize("ranks", [1, 2, 3, 8, 9, 36, 72, 96, 144, 288])
def test_a_source_of_three_samples_feeds_any_number_of_ranks(ranks: int) -> None:
    """Failure test 9: exact shares, epochs counted, and the same global batch for every number of ranks."""
    schedule = Schedule(0, ["large", "tiny"], [100_000, 3], [0.9, 0.1], 288)
    for step in (0, 1, 10**7):
        draws = schedule.draws(step)
        assert [draw for rank in range(ranks) for draw in rank_slice(draws, rank, ranks)] == draws
    assert abs(schedule.counts(1000)["tiny"] - 28_800) <= 3
    assert schedule.epochs(1000)["tiny"] == schedule.counts(1000)["tiny"] / 3


def test_a_killed_loader_process_ends_the_run_in_a_sentence(
    mixture: Mixture, processor: Processor, tmp_path: Path
) -> None:
    """Failure test 14: as the system does when memory is short."""
    loader = make_loader(
        mixture,
        mixture.schedule(5, BATCH, 10_000),
        Reader(mixture),
        processor,
        division=of_equal_number(3),
        flow_draws=1,
        start_step=0,
        stop_step=10_000,
        num_workers=1,
        quarantine=Quarantine(tmp_path, mixture),
    )
    next(loader)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid or 0, signal.SIGKILL)
    with pytest.raises(LostWorker, match=r"a loader process: got DataLoader worker .*lower data\.workers"):
        list(loader)
    assert multiprocessing.active_children() == []
