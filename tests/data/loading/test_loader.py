from __future__ import annotations

import json
import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from pi05_train.data.loading.batch_maker import ExampleMaker, make_flow_draws
from pi05_train.data.loading.loader import heldout_samples, make_loader
from pi05_train.data.loading.micro_batches import of_equal_number
from pi05_train.data.loading.quarantine import Quarantine
from pi05_train.data.loading.reader import Fault, Reader
from pi05_train.data.order.mixture import Mixture
from pi05_train.data.order.schedule import Schedule
from pi05_train.data.sources.index import read_keys
from pi05_train.errors import UserError
from pi05_train.model.batch import Batch
from pi05_train.processing.augmentation import augmented
from pi05_train.processing.example import Example
from pi05_train.processing.processor import Pictures, Processor
from pi05_train.samples.card import SourceCard
from pi05_train.samples.mixture_config import MixtureConfig, SourceEntry
from pi05_train.samples.schema import Sample
from tests.data.batches import assert_equal_batches
from tests.synthetic import flip, shard_path
from tests.synthetic_processor import synthetic_processor

World = tuple[Path, dict[str, SourceCard]]


@pytest.fixture(scope="module")
def world(synthetic_world: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A copy of our own: the processor writes statistics and a tokenizer into it."""
    root = shutil.copytree(synthetic_world[0], tmp_path_factory.mktemp("loader") / "world")
    return root, synthetic_world[1]


@pytest.fixture(scope="module")
def processor(world: World) -> Processor:
    return synthetic_processor(*world)


def open_mixture(world: World, split: str | None = None) -> Mixture:
    entries = {name: SourceEntry(card, weight=i + 1.0) for i, (name, card) in enumerate(world[1].items())}
    return Mixture.open(MixtureConfig("toy", entries), world[0], split=split)


def load(
    mixture: Mixture,
    processor: ExampleMaker,
    run_folder: Path,
    *,
    start: int = 0,
    stop: int = 3,
    workers: int = 0,
    micro: int = 6,
    draws: int = 2,
    group: int = 1,
) -> list[tuple[int, list[Batch]]]:
    schedule = Schedule(11, mixture.names, mixture.sizes, mixture.shares, 12, read_group=group)
    quarantine = Quarantine(run_folder, mixture)
    steps = list(
        make_loader(
            mixture,
            schedule,
            Reader(mixture),
            processor,
            division=of_equal_number(micro),
            flow_draws=draws,
            start_step=start,
            stop_step=stop,
            num_workers=workers,
            quarantine=quarantine,
        )
    )
    quarantine.record(quarantine.waiting, draws=12 * len(steps))
    return steps


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize("workers", [1, 4])
def test_workers_change_nothing(world: World, processor: Processor, tmp_path: Path, workers: int) -> None:
    mixture = open_mixture(world)
    assert_equal_batches(load(mixture, processor, tmp_path), load(mixture, processor, tmp_path, workers=workers))


def test_a_resumed_run_sees_what_the_uninterrupted_one_would_have(
    world: World, processor: Processor, tmp_path: Path
) -> None:
    mixture = open_mixture(world)
    assert_equal_batches(load(mixture, processor, tmp_path)[2:], load(mixture, processor, tmp_path, start=2))


def test_micro_batches_are_the_global_batch_in_slot_order(world: World, processor: Processor, tmp_path: Path) -> None:
    mixture = open_mixture(world)
    schedule = Schedule(11, mixture.names, mixture.sizes, mixture.shares, 12)
    for (step, whole), (_, parts) in zip(
        load(mixture, processor, tmp_path, micro=12, draws=1),
        load(mixture, processor, tmp_path, micro=5, draws=1),
        strict=True,
    ):
        assert [batch.num_segments for batch in parts] == [5, 5, 2]
        segments = [segment for batch in parts for segment in batch.segments]
        assert tuple(segments) == whole[0].segments
        drawn = [(draw.source, mixture.key(draw.source, draw.row), draw.draw) for draw in schedule.draws(step)]
        assert [(segment.source, segment.key, segment.draw) for segment in segments] == drawn
        for name in ("images_ICHW", "token_ids_N", "actions_AHD", "noise_AKHD", "time_AK"):
            assert torch.equal(torch.cat([getattr(batch, name) for batch in parts]), getattr(whole[0], name)), name
        assert torch.equal(
            torch.cat([augmented(batch).images_ICHW for batch in parts]), augmented(whole[0]).images_ICHW
        )


def test_read_groups_arrive_whole_in_micro_batches(world: World, processor: Processor, tmp_path: Path) -> None:
    mixture = open_mixture(world)
    for _, batches in load(mixture, processor, tmp_path, micro=6, group=3):
        for batch in batches:
            for start in (0, 3):
                unit = batch.segments[start : start + 3]
                assert {segment.source for segment in unit} == {unit[0].source}
                assert [segment.draw for segment in unit] == [unit[0].draw + i for i in range(3)]


def test_the_callers_random_state_is_left_alone(world: World, processor: Processor, tmp_path: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    load(open_mixture(world), processor, tmp_path, stop=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_taking_a_source_out_keeps_the_random_numbers_of_the_others(
    world: World, processor: Processor, tmp_path: Path
) -> None:
    root, cards = world
    fewer = (root, {name: card for name, card in cards.items() if name != "toy_web"})

    def by_draw(world: World) -> dict[tuple[str, int], Tensor]:
        noise: dict[tuple[str, int], Tensor] = {}
        for _, batches in load(open_mixture(world), processor, tmp_path):
            for batch in batches:
                for row, segment in enumerate(batch.action_segments):
                    info = batch.segments[segment]
                    noise[info.source, info.draw] = torch.cat([batch.actions_AHD[row][None], batch.noise_AKHD[row]])
        return noise

    with_web, without = by_draw(world), by_draw(fewer)
    shared = with_web.keys() & without.keys()
    assert len(shared) > 10
    assert all(torch.equal(with_web[key], without[key]) for key in shared)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_sample_is_replaced_alike_and_written_down(
    world: World, processor: Processor, tmp_path: Path, workers: int
) -> None:
    root = shutil.copytree(world[0], tmp_path / "world")
    mixture = open_mixture((root, world[1]))
    healthy = load(mixture, processor, tmp_path)
    victim = healthy[0][1][0].segments[0]
    index = mixture.indexes[victim.source]
    row = read_keys(index.folder, range(len(index))).index(victim.key)
    flip(shard_path(index, row), int(index.records["offset"][row]) + 700)

    runs = [tmp_path / "first", tmp_path / "second"]
    for run in runs:
        run.mkdir()
    first = load(mixture, processor, runs[0], workers=workers)
    assert_equal_batches(first, load(mixture, processor, runs[1]))
    assert first[0][1][0].segments[0].key != victim.key
    assert first[0][1][0].segments[1:] == healthy[0][1][0].segments[1:]
    written = [(run / "quarantine.jsonl").read_text() for run in runs]
    assert written[0] == written[1]
    entry = json.loads(written[0].splitlines()[0])
    assert (entry["source"], entry["key"], entry["draw"], entry["step"]) == (victim.source, victim.key, victim.draw, 0)
    assert "checksum" in entry["reason"]


def test_too_many_bad_samples_stop_the_run(world: World, tmp_path: Path) -> None:
    """On every rank, of which one writes."""
    writing, other = (Quarantine(tmp_path, open_mixture(world), writes=writes) for writes in (True, False))
    writing.add([Fault("toy_arm", 0, 0, "reason")], step=0)
    [entry] = writing.waiting
    for quarantine in (writing, other):
        quarantine.record([entry] * 16, draws=100)
        quarantine.record([], draws=100)
        with pytest.raises(UserError, match=r"quarantine\.jsonl.*got 17 in 100 draws, expected at most 16"):
            quarantine.record([entry], draws=100)
        quarantine.record([entry], draws=200_000)
    assert writing.waiting == []
    assert len((tmp_path / "quarantine.jsonl").read_text().splitlines()) == 18


class Misconfigured:
    """A processor that fails as a wrong configuration would, with the pictures or with the text."""

    def __init__(self, processor: Processor, fails: str) -> None:
        self.model = processor.model
        self._processor = processor
        self._fails = fails

    def pictures(self, sample: Sample, *, key: tuple[int, ...], training: bool) -> Pictures:
        self._refuse("pictures")
        return self._processor.pictures(sample, key=key, training=training)

    def example(self, pictures: Pictures) -> Example:
        self._refuse("example")
        return self._processor.example(pictures)

    def flow_dims(self, source: str) -> int:
        return self._processor.flow_dims(source)

    def _refuse(self, half: str) -> None:
        if half == self._fails:
            raise UserError("template low_level", got="{tsk}", expected="{task}", do="correct it")


@pytest.mark.parametrize("fails", ["pictures", "example"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_workers_error_arrives_as_the_sentence_it_was(
    world: World, processor: Processor, tmp_path: Path, workers: int, fails: str
) -> None:
    with pytest.raises(UserError) as raised:
        load(open_mixture(world), Misconfigured(processor, fails), tmp_path, workers=workers)
    assert type(raised.value) is UserError
    assert str(raised.value) == "template low_level: got {tsk}, expected {task}; correct it."
    assert multiprocessing.active_children() == []  # although `raised` keeps the loader's frame alive
    assert not (tmp_path / "quarantine.jsonl").exists()


def test_flow_draws_are_keyed_by_the_draw_and_follow_their_laws(processor: Processor) -> None:
    model = replace(processor.model, action_horizon=2, action_dim=3)
    one, three = (make_flow_draws(0, "a", 5, count, model, dims=3) for count in (1, 3))
    np.testing.assert_array_equal(one.noise_KHD, three.noise_KHD[:1])
    np.testing.assert_array_equal(one.time_K, three.time_K[:1])
    narrow = make_flow_draws(0, "a", 5, 1, model, dims=2)
    np.testing.assert_array_equal(narrow.noise_KHD, one.noise_KHD * [1, 1, 0])
    others = [make_flow_draws(*key, 1, model, dims=3) for key in ((1, "a", 5), (0, "b", 5), (0, "a", 6))]
    assert len({float(one.time_K[0]), *(float(other.time_K[0]) for other in others)}) == 4
    many = [make_flow_draws(0, "a", draw, 1, model, dims=3) for draw in range(3000)]
    times = np.array([draws.time_K[0] for draws in many])
    noise = np.concatenate([draws.noise_KHD.ravel() for draws in many])
    assert stats.kstest((times - 0.001) / 0.999, stats.beta(1.5, 1).cdf, method="asymp").pvalue > 1e-3
    assert stats.kstest(noise, stats.norm.cdf, method="asymp").pvalue > 1e-3
    assert times.min() > 0
    assert times.max() <= 1


def test_heldout_samples_are_the_same_whatever_is_asked_beside_them(world: World) -> None:
    mixture = open_mixture(world, split="heldout")
    few, many = (heldout_samples(mixture, Reader(mixture), count) for count in (3, 1000))
    for name in mixture.names:
        assert len(few[name]) == 3
        assert [sample.key for sample in few[name]] == [sample.key for sample in many[name][:3]]
        assert len({sample.key for sample in many[name]}) == len(many[name]) == 10
        assert {sample.split for sample in many[name]} == {"heldout"}
