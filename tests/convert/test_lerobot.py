"""LeRobot datasets of every version and codec become samples that show what they say; bad ones are told in a sentence.

The oracle: every picture shows the number that its row's state holds. `tests/interop/write_lerobot_v3.py` lets LeRobot
itself write datasets; where PI05_LEROBOT_WRITTEN names the folder that it filled, those are converted here too.
"""

from __future__ import annotations

import os
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pi05_train.convert.lerobot import open_source
from pi05_train.errors import UserError
from pi05_train.samples.card import check_card
from pi05_train.samples.schema import Sample
from tests.convert.lerobot_folders import (
    HORIZON,
    OPTIONS,
    VERSIONS,
    VIDEO,
    Dataset,
    converted,
    edit_info,
    needs_encoder,
    painted,
)

SHARED = Path(os.environ.get("PI05_SHARED", Path(__file__).resolve().parents[2] / ".." / "shared"))


REAL = SHARED / "data" / "unitree_g1_lerobot_v21"


WRITTEN = os.environ.get("PI05_LEROBOT_WRITTEN", "")


def assert_pictures_are_the_rows(samples: list[Sample], data: Dataset, camera_offsets: dict[str, int]) -> None:
    assert [(s.episode, s.frame) for s in samples] == [(e, f) for e, n in enumerate(data.lengths) for f in range(n)]
    for sample in samples:
        number, last = (
            data.number(sample.episode, sample.frame),
            data.number(sample.episode, data.lengths[sample.episode]),
        )
        assert {name: painted(jpeg) for name, jpeg in sample.images.items()} == {
            name: number + offset for name, offset in camera_offsets.items()
        }
        assert sample.state is not None
        assert sample.actions is not None
        assert sample.action_valid is not None
        assert sample.state.tolist() == [number] * data.width
        steps = np.minimum(number + np.arange(HORIZON), last - 1)
        assert sample.actions.tolist() == np.tile(steps[:, None] + 0.5, (1, data.width)).tolist()
        assert sample.action_valid.tolist() == (number + np.arange(HORIZON) < last).tolist()
        assert sample.task == data.tasks[sample.episode % len(data.tasks)]


@pytest.mark.parametrize("codec", ["h264", "h265", "av1"])
@pytest.mark.parametrize("version", VERSIONS)
def test_every_picture_is_its_row(tmp_path: Path, version: str, codec: str) -> None:
    needs_encoder(codec)
    cameras = {"observation.images.top": 0, "observation.images.cam_right_wrist": 1000}
    data = Dataset(version, codec=codec, cameras=cameras)
    source = open_source(data.write(tmp_path / "set"), OPTIONS)
    check_card(source.card)
    samples, dropped = converted(source)
    assert not dropped
    assert_pictures_are_the_rows(samples, data, {"base_0_rgb": 0, "right_wrist_0_rgb": 1000})
    assert (source.card.embodiment, source.card.rate_hz, source.card.licence) == ("toy_arm", 10.0, "apache-2.0")
    assert [unit.number for unit in source.units] == [0, 1, 2]


@pytest.mark.parametrize("stored", ["bytes", "jpeg", "png"])
@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_pictures_in_the_table_or_beside_it(tmp_path: Path, version: str, stored: str) -> None:
    data = Dataset(version, stored=stored)
    samples, dropped = converted(open_source(data.write(tmp_path / "set"), OPTIONS))
    assert not dropped
    assert_pictures_are_the_rows(samples, data, {"base_0_rgb": 0})


def test_a_picture_that_is_not_there_drops_its_sample(tmp_path: Path) -> None:
    root = Dataset("v2.1", stored="png").write(tmp_path / "set")
    (root / "images/observation.images.top/episode_000001/frame_000003.png").unlink()
    samples, dropped = converted(open_source(root, OPTIONS))
    assert (len(samples), dropped) == (27, {"picture unreadable": 1})


def test_a_worker_process_sees_the_same(tmp_path: Path) -> None:
    source = open_source(Dataset("v3.0").write(tmp_path / "set"), OPTIONS)
    again = pickle.loads(pickle.dumps(source))
    for unit in source.units:
        ours, theirs = list(source.samples(unit)), list(again.samples(unit))
        assert [s.images for s in ours if isinstance(s, Sample)] == [s.images for s in theirs if isinstance(s, Sample)]


def test_the_stride_chooses_anchors_not_chunk_steps(tmp_path: Path) -> None:
    samples, _ = converted(open_source(Dataset().write(tmp_path / "set"), replace(OPTIONS, stride=4)))
    assert [s.frame for s in samples if s.episode == 1] == [0, 4, 8, 12]
    for sample in samples:
        assert sample.actions is not None
        assert sample.state is not None
        assert painted(sample.images["base_0_rgb"]) == sample.state[0] == sample.actions[0, 0] - 0.5
        assert sample.actions[1, 0] - sample.actions[0, 0] in (0, 1)


def test_success_by_the_row_that_says_so(tmp_path: Path) -> None:
    root = Dataset(extra={"next.success": lambda episode, frame: episode == 1 and frame == 13}).write(tmp_path / "set")
    samples, _ = converted(open_source(root, OPTIONS))
    assert {sample.episode: sample.success for sample in samples} == {0: False, 1: True, 2: False}


def test_absent_episodes_are_taken_when_allowed(tmp_path: Path) -> None:
    root = Dataset("v2.1").write(tmp_path / "set")
    (root / VIDEO["v2.1"]).unlink()
    source = open_source(root, replace(OPTIONS, allow_missing=True))
    assert [unit.number for unit in source.units] == [0, 2]
    assert "1 of 3 episodes are absent: 1." in source.notes


def test_the_rate_is_what_the_time_stamps_say(tmp_path: Path) -> None:
    root = Dataset("v2.1").write(tmp_path / "set")
    edit_info(root, lambda info: info.update(fps=30))
    source = open_source(root, OPTIONS)
    samples, dropped = converted(source)
    assert source.card.rate_hz == 10.0
    assert len(samples) == 28
    assert not dropped
    assert any("info.json says 30 frames per second, time stamps 10" in note for note in source.notes)


def test_a_real_dataset_of_which_two_episodes_are_here() -> None:
    if not REAL.is_dir():
        pytest.skip(f"no {REAL}")
    options = replace(OPTIONS, image_size=32, stride=60)
    with pytest.raises(
        UserError, match=r"got 98 of 100 without their files \(episode 0 lacks data/chunk-000/episode_0"
    ):
        open_source(REAL, options)
    source = open_source(REAL, replace(options, allow_missing=True))
    check_card(source.card)
    assert (source.card.state_dim, source.card.action_dim, source.card.rate_hz) == (26, 26, 30.0)
    samples, dropped = converted(source)
    assert Counter(sample.episode for sample in samples) == {2: 6, 4: 6}
    assert not dropped
    assert {sample.task for sample in samples} == {"Pick up the yellow bottle on the table."}


@pytest.mark.skipif(not WRITTEN, reason="PI05_LEROBOT_WRITTEN names no folder of tests/interop/write_lerobot_v3.py")
@pytest.mark.parametrize("name", ["h264", "libsvtav1", "image"])
def test_what_lerobot_itself_wrote(name: str) -> None:
    root = Path(WRITTEN) / name
    with np.load(root.with_suffix(".npz")) as put_in:
        truth = {key: put_in[key] for key in put_in.files}
    samples, dropped = converted(open_source(root, OPTIONS))
    assert not dropped
    assert len(samples) == len(truth["state"])
    for row, sample in enumerate(samples):
        assert sample.state is not None
        assert sample.actions is not None
        assert (sample.episode, sample.frame) == (truth["episode"][row], truth["frame"][row])
        np.testing.assert_array_equal(sample.state, truth["state"][row])
        np.testing.assert_array_equal(sample.actions[0], truth["action"][row])
        assert sample.task == str(truth["task"][row])
        assert painted(sample.images["base_0_rgb"]) == truth["top"][row]
        assert painted(sample.images["left_wrist_0_rgb"]) == truth["wrist"][row]
