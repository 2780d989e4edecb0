from __future__ import annotations

import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pi05_train.data.cache import Cache
from pi05_train.data.loading.reader import Reader
from pi05_train.data.order.mixture import Mixture
from pi05_train.data.sources import statistics
from pi05_train.data.sources.index import Index, build_index
from pi05_train.data.sources.lowdim import read_blocks
from pi05_train.data.sources.rows import filter_rows
from pi05_train.data.sources.statistics import Tally, embodiments, tally_source, write_statistics
from pi05_train.errors import UserError
from pi05_train.processing.normalisation import read_norm_stats
from pi05_train.samples.card import SourceCard
from pi05_train.samples.mixture_config import FilterConfig, MixtureConfig, SourceEntry
from pi05_train.samples.shards import sample_members, write_shards
from tests.synthetic import CARDS, synthetic_samples

World = tuple[Path, dict[str, SourceCard]]


@pytest.fixture
def reader(synthetic_world: World) -> Reader:
    entries = {name: SourceEntry(card, weight=1.0) for name, card in synthetic_world[1].items()}
    return Reader(Mixture.open(MixtureConfig("toy", entries), synthetic_world[0]))


@pytest.mark.parametrize("source", ["toy_mobile", "toy_arm", "toy_bimanual"])
@pytest.mark.parametrize("horizon", [1, 10])
def test_actions_are_summarised_as_the_network_will_be_asked_for_them(
    synthetic_world: World, source: str, horizon: int
) -> None:
    root, cards = synthetic_world
    card = cards[source]
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
    stats = tally_source(root / card.shards, card, horizon).norm_stats()["actions"]
    table = np.array(elements, np.float64)
    np.testing.assert_allclose(stats.mean, table.mean(0), atol=1e-6)
    np.testing.assert_allclose(stats.std, table.std(0), atol=1e-6)
    for outside in (table < stats.q01, table > stats.q99):
        np.testing.assert_allclose(outside.mean(0), 0.01, atol=1 / len(table))


def test_states_are_summarised_over_training_anchors(synthetic_world: World) -> None:
    root, cards = synthetic_world
    card = cards["toy_subtasks"]
    states = np.array([s.state for s in synthetic_samples(card) if s.split == "train"], np.float64)
    stats = tally_source(root / card.shards, card, 10).norm_stats()
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


def long_source(folder: Path) -> SourceCard:
    """A source of several shards and episodes of some length."""
    card = CARDS["toy_arm"]
    write_shards(folder, synthetic_samples(card, episodes=30, frames=10), samples_per_shard=40)
    build_index(folder)
    return card


def test_the_number_of_processes_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "ROWS_PER_PART", 20)
    card = long_source(tmp_path)
    written = [tally_source(tmp_path, card, 10, workers=workers).norm_stats() for workers in (1, 2)]
    for name, stats in written[0].items():
        for kind in ("q01", "q99", "mean", "std"):
            np.testing.assert_array_equal(getattr(stats, kind), getattr(written[1][name], kind))


def test_parts_of_a_source_merge_into_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "ROWS_PER_PART", 20)
    card = long_source(tmp_path)
    whole = tally_source(tmp_path, card, 10)
    one_pass = Tally()
    index = Index.open(tmp_path)
    rows = filter_rows("toy_arm", index, FilterConfig(), Cache())
    for block in read_blocks(index, np.asarray(rows)):
        one_pass.add(block, card, 10)
    assert (whole.samples, whole.steps, whole.valid_steps) == (
        one_pass.samples,
        one_pass.steps,
        one_pass.valid_steps,
    )
    for name, stats in one_pass.norm_stats().items():
        np.testing.assert_array_equal(stats.q99, whole.norm_stats()[name].q99)
        np.testing.assert_allclose(stats.std, whole.norm_stats()[name].std, rtol=1e-12)


def test_images_are_not_read(tmp_path: Path) -> None:
    card = long_source(tmp_path)
    before = tally_source(tmp_path, card, 10).norm_stats()
    for path in tmp_path.glob("*.tar"):
        content = path.read_bytes()
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name.endswith(".jpg"):
                    end = member.offset_data + member.size
                    content = content[: member.offset_data] + bytes(member.size) + content[end:]
        path.write_bytes(content)
    after = tally_source(tmp_path, card, 10).norm_stats()
    np.testing.assert_array_equal(before["actions"].q01, after["actions"].q01)


def test_numbers_that_are_not_finite_are_counted_and_refused_for_training(tmp_path: Path) -> None:
    card = CARDS["toy_arm"]
    samples = synthetic_samples(card)
    (path,) = write_shards(tmp_path, samples)
    state = samples[0].state
    assert state is not None
    assert samples[0].split == "train"
    broken = state.copy()
    broken[2] = np.nan
    content = path.read_bytes()
    old, new = (sample_members(replace(samples[0], state=x))["lowdim.npz"] for x in (state, broken))
    path.write_bytes(content.replace(old, new))
    build_index(tmp_path)
    tally = tally_source(tmp_path, card, 10)
    assert tally.not_finite["state"].tolist() == [0, 0, 1, 0]
    assert np.isfinite(tally.norm_stats()["state"].mean).all()
    assert tally.vectors["state"].count == tally.samples - 1
    with pytest.raises(UserError, match=r"state, dimensions \[2\]: got 1 NaN or Inf"):
        write_statistics(tmp_path, card, 10)


def test_sources_share_statistics_when_their_numbers_mean_the_same() -> None:
    arm = CARDS["toy_arm"]
    twin, other = replace(arm, name="twin"), replace(arm, name="other", delta_mask=[])
    groups = embodiments([arm, twin, other, CARDS["toy_web"], CARDS["toy_subtasks"]])
    assert {name: [card.name for card in cards] for name, cards in groups.items()} == {
        "toy_arm_end_effector": ["toy_arm", "twin"],
        "toy_arm_end_effector_1": ["other"],
    }


@pytest.mark.parametrize(("change", "named"), [({"state_dim": 5}, "state"), ({"action_dim": 3}, "actions")])
def test_numbers_that_are_not_what_the_card_declares_are_refused(
    synthetic_world: World, change: dict[str, int], named: str
) -> None:
    root, cards = synthetic_world
    with pytest.raises(UserError, match=f"{named} of source toy_arm.*got 4 dimensions, expected the card's"):
        tally_source(root / "toy_arm", replace(cards["toy_arm"], **change), 10)
