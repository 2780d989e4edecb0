from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pi05_train.data.sources.index import Index
from pi05_train.data.sources.inspect import inspect
from pi05_train.data.sources.statistics import write_statistics
from pi05_train.errors import UserError
from pi05_train.samples.card import SourceCard
from tests.synthetic import flip, shard_path, synthetic_samples

World = tuple[Path, dict[str, SourceCard]]


def test_a_sample_is_found_by_its_row_and_by_its_key(synthetic_world: World) -> None:
    root, cards = synthetic_world
    samples = synthetic_samples(cards["toy_web"])
    for row in (0, 17, len(samples) - 1):
        found = inspect(root / "toy_web", cards["toy_web"], row=row)
        assert (found.sample, found.row, found.rows) == (samples[row], row, len(samples))
        assert found.complaint == ""
        assert inspect(root / "toy_web", cards["toy_web"], key=samples[row].key) == found
    assert inspect(root / "toy_web", cards["toy_web"], row=-1).row == len(samples) - 1


def test_statistics_come_along_when_there_are_any(synthetic_world: World, tmp_path: Path) -> None:
    root, cards = synthetic_world
    folder = shutil.copytree(root / "toy_arm", tmp_path / "toy_arm")
    assert inspect(folder, cards["toy_arm"]).statistics == {}
    write_statistics(folder, cards["toy_arm"], 10)
    assert set(inspect(folder, cards["toy_arm"]).statistics) == {"state", "actions"}


def test_what_does_not_exist_or_is_damaged_is_refused(synthetic_world: World, tmp_path: Path) -> None:
    root, cards = synthetic_world
    folder = shutil.copytree(root / "toy_web", tmp_path / "toy_web")
    with pytest.raises(UserError, match="got 40, expected 0 to 39"):
        inspect(folder, cards["toy_web"], row=40)
    with pytest.raises(UserError, match="got 'nothing', expected a key such as 0000"):
        inspect(folder, cards["toy_web"], key="nothing")
    index = Index.open(folder)
    flip(shard_path(index, 3), int(index.records["offset"][3]) + 2000)
    with pytest.raises(UserError, match="pi05 data verify"):
        inspect(folder, cards["toy_web"], row=3)
