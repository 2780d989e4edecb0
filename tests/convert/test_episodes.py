from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.convert.episodes import anchor_samples
from pi05_train.convert.run import convert
from pi05_train.convert.source import Dropped, Options, split_of
from pi05_train.errors import UserError
from pi05_train.samples.schema import Sample
from pi05_train.samples.shards import check_sample
from tests.convert.fake_source import card_of, fake_episode, open_source, read_painted, read_shards

OPTIONS = Options("fake", "CE", horizon=4, image_size=64)


def samples_of(options: Options, *, frames: int = 5, **changes: Any) -> list[Sample | Dropped]:
    episode = replace(fake_episode(0, frames, {}), **changes)
    return list(anchor_samples(episode, card_of(options), options))


def assert_aligned(sample: Sample, lengths: list[int], horizon: int) -> None:
    """Picture index == state index == first action, on every camera; the pad mask ends where the episode ends."""
    number = 256 * sample.episode + sample.frame
    assert sample.state is not None
    assert sample.actions is not None
    assert sample.action_valid is not None
    assert [read_painted(content) for content in sample.images.values()] == [number, number]
    assert (sample.state == number).all()
    last = 256 * sample.episode + lengths[sample.episode] - 1
    steps = number + np.arange(horizon)
    np.testing.assert_array_equal(sample.actions[:, 0], np.minimum(steps, last))
    np.testing.assert_array_equal(sample.action_valid, steps <= last)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 16), st.integers(0, 200))
def test_painted_frames_stand_beside_their_numbers(frames: int, stride: int, horizon: int, number: int) -> None:
    options = replace(OPTIONS, stride=stride, horizon=horizon)
    card = card_of(options)
    samples = list(anchor_samples(fake_episode(number, frames, {}), card, options))
    assert [sample.frame for sample in samples if isinstance(sample, Sample)] == list(range(0, frames, stride))
    for sample in samples:
        assert isinstance(sample, Sample)
        assert_aligned(sample, [0] * number + [frames], horizon)
        check_sample(sample, card)
        assert sample.key == f"{number:08d}_{sample.frame:06d}"
        assert sample.split == split_of(options, number)


@pytest.mark.parametrize(("stride", "horizon", "workers"), [(1, 4, 1), (3, 9, 1), (2, 5, 2)])
def test_painted_frames_through_the_engine(stride: int, horizon: int, workers: int, tmp_path: Path) -> None:
    lengths = [7, 1, 4, 12]
    (tmp_path / "source.json").write_text(json.dumps({"lengths": lengths}))
    options = replace(OPTIONS, stride=stride, horizon=horizon, heldout=0.0)
    folder = tmp_path / "fake"
    made = convert(open_source, tmp_path / "source.json", folder, options, workers=workers, samples_per_shard=5)
    samples = read_shards(folder)
    assert len(samples) == made.samples
    for sample in samples:
        assert_aligned(sample, lengths, horizon)
        assert sample.provenance["resize"].startswith("64x64")
    wanted = {(episode, frame) for episode, frames in enumerate(lengths) for frame in range(0, frames, stride)}
    assert {(sample.episode, sample.frame) for sample in samples} == wanted


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state": np.zeros((5, 2), np.float32)}, "dimensions differ from the card"),
        ({"actions": np.zeros((5, 3), np.float32)}, "dimensions differ from the card"),
        ({"actions": np.zeros((4, 2), np.float32)}, "state and action counts differ"),
        ({"actions": np.full((5, 2), np.inf, np.float32)}, "NaN in actions"),
        ({"state": np.full((5, 3), np.nan, np.float32)}, "NaN in states"),
        ({"rate_hz": 9.0}, "rate differs from the card"),
        ({"cameras": {}}, "no camera"),
        ({"task": ["a", "b"]}, "text and frame counts differ"),
        ({"cameras": {"base_0_rgb": iter([np.zeros((4, 4, 3), np.uint8)] * 4)}}, "frame count of a camera differs"),
        ({"cameras": {"base_0_rgb": iter([np.zeros((4, 4, 3), np.uint8)] * 6)}}, "frame count of a camera differs"),
        ({"cameras": {"base_0_rgb": [np.zeros((4, 4, 3), np.uint8)] * 4}}, "frame count of a camera differs"),
    ],
)
def test_an_episode_that_cannot_be_trusted_is_dropped_whole(changes: dict[str, Any], reason: str) -> None:
    (dropped,) = samples_of(replace(OPTIONS, stride=2), **changes)
    assert dropped == Dropped("00000000", reason, 3)


def test_an_empty_episode_is_dropped() -> None:
    assert samples_of(OPTIONS, frames=0) == [Dropped("00000000", "no frames", 1)]


def test_one_unreadable_picture_or_missing_text_drops_its_sample_alone() -> None:
    black = np.zeros((4, 4, 3), np.uint8)
    found = samples_of(
        OPTIONS,
        cameras={"base_0_rgb": iter([black, b"cut", black, black, black])},
        task=["a", "b", " ", "d", "e"],
    )
    assert [type(sample).__name__ for sample in found] == ["Sample", "Dropped", "Dropped", "Sample", "Sample"]
    assert found[1:3] == [
        Dropped("00000000_000001", "picture unreadable"),
        Dropped("00000000_000002", "no instruction"),
    ]
    assert [sample.task for sample in found if isinstance(sample, Sample)] == ["a", "d", "e"]


def test_subtask_samples_have_no_actions() -> None:
    found = samples_of(replace(OPTIONS, kind="HL"), subtasks=["reach", "", "lift", "lift", "lift"])
    assert found[1] == Dropped("00000000_000001", "no subtask")
    assert [(sample.subtask, sample.actions) for sample in found if isinstance(sample, Sample)] == [
        ("reach", None), ("lift", None), ("lift", None), ("lift", None),
    ]  # fmt: skip


def test_a_camera_we_do_not_know_is_a_mistake_of_the_format() -> None:
    with pytest.raises(UserError, match="episode 0, cameras: got \\['top'\\]"):
        samples_of(OPTIONS, cameras={"top": []})


def test_more_episodes_change_no_earlier_split() -> None:
    shares = [split_of(replace(OPTIONS, heldout=0.2), episode) for episode in range(2000)]
    assert shares.count("heldout") == pytest.approx(400, abs=60)
    larger = [split_of(replace(OPTIONS, heldout=0.3), episode) for episode in range(2000)]
    assert all(b == "heldout" for a, b in zip(shares, larger, strict=True) if a == "heldout")
    assert [split_of(replace(OPTIONS, name="other", heldout=0.2), episode) for episode in range(2000)] != shares
