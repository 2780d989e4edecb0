from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pi05_train.data.loading.reader import Reader
from pi05_train.data.order.explain import explain
from pi05_train.data.order.mixture import Mixture
from pi05_train.data.order.schedule import Schedule
from pi05_train.data.sources.index import read_keys
from pi05_train.errors import UserError
from pi05_train.samples.card import SourceCard
from pi05_train.samples.mixture_config import MixtureConfig, SourceEntry
from pi05_train.samples.shards import parse_sample, split_members

World = tuple[Path, dict[str, SourceCard]]


def opened(root: Path, cards: dict[str, SourceCard]) -> tuple[Mixture, Schedule]:
    mixture = Mixture.open(MixtureConfig("toy", {name: SourceEntry(card, 1.0) for name, card in cards.items()}), root)
    return mixture, Schedule(5, mixture.names, mixture.sizes, mixture.shares, 24)


@pytest.mark.parametrize("step", [0, 3, 10**7])
def test_it_names_the_samples_that_training_reads_and_where_their_bytes_stand(
    synthetic_world: World, step: int
) -> None:
    mixture, schedule = opened(*synthetic_world)
    reader = Reader(mixture)
    slots = explain(mixture, schedule, step)
    draws = schedule.draws(step)
    assert [slot.slot for slot in slots] == list(range(24))
    for slot, draw in zip(slots, draws, strict=True):
        sample = reader.read(draw.source, draw.row)
        assert (slot.source, slot.draw, slot.key) == (draw.source, draw.draw, sample.key)
        assert (slot.episode, slot.frame) == (sample.episode, sample.frame)
        assert slot.epoch == draw.draw // len(mixture.rows[draw.source])
        content = (mixture.indexes[slot.source].folder / slot.shard).read_bytes()[slot.offset :][: slot.length]
        assert parse_sample(split_members(content)).key == slot.key


def test_the_shards_are_not_opened(synthetic_world: World, tmp_path: Path) -> None:
    world, cards = synthetic_world
    root = shutil.copytree(world, tmp_path / "world")
    expected = explain(*opened(world, cards), 2)
    for path in root.rglob("*.tar"):
        os.truncate(path, 0)
        os.truncate(path, (world / path.relative_to(root)).stat().st_size)
    assert explain(*opened(root, cards), 2) == expected


def test_a_step_takes_milliseconds(synthetic_world: World) -> None:
    mixture, schedule = opened(*synthetic_world)
    start = time.perf_counter()
    explain(mixture, schedule, 10**7)
    assert time.perf_counter() - start < 0.25


def test_a_step_before_the_first_is_refused(synthetic_world: World) -> None:
    with pytest.raises(UserError, match="step: got -1"):
        explain(*opened(*synthetic_world), -1)


def test_keys_come_from_every_part_of_the_index(tmp_path: Path) -> None:
    keys = [f"{i:08d}_000000" for i in range(1000)]
    pq.write_table(pa.table({"key": keys}), tmp_path / "index.parquet", row_group_size=64)
    rows = [999, 0, 63, 64, 500, 64]
    assert read_keys(tmp_path, rows) == [keys[row] for row in rows]
