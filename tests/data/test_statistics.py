from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pi05_train.data.mixture import Mixture
from pi05_train.data.reader import Reader
from pi05_train.data.statistics import source_statistics, write_statistics
from pi05_train.processing.normalisation import read_norm_stats
from pi05_train.samples.card import SourceCard
from pi05_train.samples.mixture_config import MixtureConfig, SourceEntry
from tests.synthetic import synthetic_samples

World = tuple[Path, dict[str, SourceCard]]


@pytest.fixture
def reader(synthetic_world: World) -> Reader:
    entries = {name: SourceEntry(card, weight=1.0) for name, card in synthetic_world[1].items()}
    return Reader(Mixture.open(MixtureConfig("toy", entries), synthetic_world[0]))


@pytest.mark.parametrize("source", ["toy_mobile", "toy_arm", "toy_bimanual"])
@pytest.mark.parametrize("horizon", [1, 10])
def test_actions_are_summarised_as_the_network_will_be_asked_for_them(
    reader: Reader, source: str, horizon: int
) -> None:
    card = reader.mixture.cards[source]
    moved = np.zeros(card.action_dim, bool)
    moved[: len(card.delta_mask)] = card.delta_mask
    elements: list[np.ndarray] = []
    for sample in synthetic_samples(card):
        if sample.split == "heldout":
            continue
        assert sample.actions is not None
        assert sample.state is not None
        assert sample.action_valid is not None
        origin = np.where(moved, sample.state[: card.action_dim], 0)
        elements += [
            a - origin for a, ok in list(zip(sample.actions, sample.action_valid, strict=True))[:horizon] if ok
        ]
    stats = source_statistics(reader, source, horizon)["actions"]
    table = np.array(elements, np.float64)
    np.testing.assert_allclose(stats.mean, table.mean(0), atol=1e-6)
    np.testing.assert_allclose(stats.std, table.std(0), atol=1e-6)
    for outside in (table < stats.q01, table > stats.q99):
        np.testing.assert_allclose(outside.mean(0), 0.01, atol=1 / len(table))


def test_states_are_summarised_over_training_anchors(reader: Reader) -> None:
    card = reader.mixture.cards["toy_subtasks"]
    states = np.array([s.state for s in synthetic_samples(card) if s.split == "train"], np.float64)
    stats = source_statistics(reader, "toy_subtasks", 10)
    assert list(stats) == ["state"]
    np.testing.assert_allclose(stats["state"].mean, states.mean(0), atol=1e-6)
    np.testing.assert_allclose(stats["state"].q99, np.quantile(states, 0.99, axis=0, method="inverted_cdf"), atol=1e-6)


def test_the_file_beside_the_shards_reads_back(synthetic_world: World, tmp_path: Path) -> None:
    root, cards = synthetic_world
    folder = shutil.copytree(root / "toy_arm", tmp_path / "moved")
    path = write_statistics(folder, cards["toy_arm"], 10)
    assert path == folder / "norm_stats.json"
    assert set(json.loads(path.read_text())["norm_stats"]) == {"state", "actions"}
    assert read_norm_stats(path)["actions"].q01.shape == (4,)


def test_a_source_without_numbers_gets_no_file(synthetic_world: World, tmp_path: Path) -> None:
    root, cards = synthetic_world
    folder = shutil.copytree(root / "toy_web", tmp_path / "toy_web")
    assert write_statistics(folder, cards["toy_web"], 10) is None
    assert not (folder / "norm_stats.json").exists()
