"""RLDS folders through the table: painted frames beside their numbers, one test per rule."""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pi05_train.convert.rlds import open_source
from pi05_train.convert.rlds_datasets import DATASETS, Part
from pi05_train.convert.rlds_steps import Steps
from pi05_train.convert.run import convert
from pi05_train.convert.source import Dropped
from pi05_train.convert.tfrecord import parse_example, records
from pi05_train.errors import UserError
from pi05_train.samples.schema import CAMERAS, Sample
from pi05_train.samples.shards import check_sample, parse_sample, sample_members
from tests.convert.fake_source import read_painted, read_shards
from tests.convert.rlds_episodes import (
    HIGH,
    WIDE,
    converted_one,
    episode_of,
    features_of,
    folder_of,
    leaf,
    options,
    record_with,
    samples_of,
)
from tests.convert.rlds_folders import example, picture_file, write_folder

SHARED = Path(os.environ.get("PI05_SHARED", Path(__file__).resolve().parents[3] / "shared"))


BRIDGE = SHARED / "data" / "octo_bridge_rlds"


def stored_columns(parts: Sequence[Part], frame: int) -> NDArray[np.float32]:
    columns = [frame + np.arange(part.start, part.start + part.size) / 64 for part in parts]
    return np.concatenate(columns).astype(np.float32)


@pytest.mark.parametrize(("name", "kind"), [*((name, "PNG") for name in sorted(DATASETS)), ("bridge", "JPEG")])
def test_painted_frames_stand_beside_their_numbers(name: str, kind: str, tmp_path: Path) -> None:
    entry = DATASETS[name]
    samples, dropped = samples_of(folder_of(tmp_path, entry, [[4, 5], [3]], encoded=kind), options(name))
    first = entry.skip_first
    assert [sample.key for sample in samples] == [
        f"{episode:08d}_{frame:06d}" for episode, length in enumerate((4, 5, 3)) for frame in range(length - first - 1)
    ]
    assert sum(drop.samples for drop in dropped) == 3 * (1 + first)
    for sample in samples:
        stored_frame = sample.frame + first
        for camera, picture in sample.images.items():
            assert read_painted(picture) == 100 * sample.episode + 10 * CAMERAS.index(camera) + stored_frame
        assert list(sample.images) == [c for c in CAMERAS if c in {camera.ours for camera in entry.cameras}]
        assert sample.task.startswith(f"task {sample.episode} of ")
        assert (sample.success, sample.rate_hz, sample.control_mode) == (True, entry.rate_hz, entry.control_mode)
        assert sample.state is not None
        assert sample.actions is not None
        if entry.state:
            np.testing.assert_array_equal(sample.state, stored_columns(entry.state, stored_frame))
        at = 0
        for part in entry.actions:
            if not part.change and leaf(part)["tensor"]["dtype"] == "float32":
                expected = stored_columns([part], stored_frame)
                np.testing.assert_array_equal(sample.actions[0, at : at + part.size], expected)
            at += part.size


def test_the_last_steps_action_is_never_used(tmp_path: Path) -> None:
    entry = DATASETS["austin_buds"]
    features = features_of(entry)
    write_folder(tmp_path / "ended", features, [[episode_of(entry, 0, 6)]])
    write_folder(tmp_path / "cut", features, [[episode_of(entry, 0, 6, last=False)]])
    ended, dropped = samples_of(tmp_path / "ended", options("austin_buds"))
    cut, none = samples_of(tmp_path / "cut", options("austin_buds"))
    assert [sample.frame for sample in ended] == [0, 1, 2, 3, 4]
    assert [(drop.reason, drop.samples) for drop in dropped] == [("last step has no action", 1)]
    assert max(float(sample.actions[:, 0].max()) for sample in ended if sample.actions is not None) == 4
    assert [sample.frame for sample in cut] == [0, 1, 2, 3, 4, 5]
    assert not none
    valid = [sample.action_valid.tolist() for sample in ended if sample.action_valid is not None]
    assert valid[2:4] == [[True, True, True, False], [True, True, False, False]]


def test_a_stride_counts_what_it_loses(tmp_path: Path) -> None:
    path = folder_of(tmp_path, DATASETS["bridge"], [[7, 8]])  # 5 and 6 steps with an action
    samples, dropped = samples_of(path, options("bridge", stride=3))
    assert [(sample.episode, sample.frame) for sample in samples] == [(0, 0), (0, 3), (1, 0), (1, 3)]
    assert [(drop.key, drop.reason, drop.samples) for drop in dropped] == [
        ("00000000", "first step has no action", 1),
        ("00000001", "last step has no action", 1),
    ]


@pytest.mark.parametrize("frames", [0, 1, 2])
def test_an_episode_without_an_action_gives_no_sample(frames: int, tmp_path: Path) -> None:
    samples, dropped = samples_of(folder_of(tmp_path, DATASETS["bridge"], [[frames]]), options("bridge"))
    assert not samples
    assert sum(drop.samples for drop in dropped) == max(frames, 1)


def test_success_is_read_where_it_is_written(tmp_path: Path) -> None:
    cases = {
        "droid": ("episode_metadata/file_path", [b"lab/failure/0"]),
        "kuka": ("success", np.array([False])),
        "bc_z": ("steps/observation/episode_success", np.zeros(4, np.float32)),
    }
    for entry, (name, value) in cases.items():
        samples, _ = converted_one(tmp_path / entry, entry, episode_of(DATASETS[entry], 0, 4) | {name: value})
        assert [sample.success for sample in samples] == [False] * 3


def test_an_instruction_is_chosen_among_those_that_are_there(tmp_path: Path) -> None:
    entry = DATASETS["droid"]
    chosen, _ = samples_of(folder_of(tmp_path / "all", entry, [[3] * 20]), options("droid"))
    assert {sample.task.split(" of ")[1] for sample in chosen} == set(entry.language)
    record = episode_of(entry, 0, 4) | {f"steps/{key}": [b""] * 4 for key in entry.language[:2]}
    samples, _ = converted_one(tmp_path / "one", "droid", record)
    assert {sample.task for sample in samples} == {"task 0 of language_instruction_3"}
    samples, dropped = converted_one(tmp_path / "none", "droid", record | {f"steps/{entry.language[2]}": [b" "] * 4})
    assert not samples
    assert [drop.reason for drop in dropped].count("no instruction") == 3


def test_instructions_as_numbers_end_at_the_first_zero(tmp_path: Path) -> None:
    codes = np.zeros((4, 512), np.int32)
    codes[:, :9] = [ord(letter) for letter in "push ü\0xx"]
    record = record_with("language_table", "steps/observation/instruction", lambda _: codes)
    assert {sample.task for sample in converted_one(tmp_path / "good", "language_table", record)[0]} == {"push ü"}
    for bad in (-1, 0x110000):
        record = record_with("language_table", "steps/observation/instruction", lambda _, bad=bad: codes + bad)
        with pytest.raises(UserError, match="instruction holds numbers that are no characters"):
            converted_one(tmp_path / str(bad), "language_table", record)


def test_instructions_may_change_within_an_episode(tmp_path: Path) -> None:
    words = [b"one", b"two", b"three", b"four"]
    record = record_with("bridge", "steps/language_instruction", lambda _: words)
    assert [sample.task for sample in converted_one(tmp_path, "bridge", record)[0]] == ["two", "three"]


def test_an_optional_camera_of_one_colour_is_absent(tmp_path: Path) -> None:
    black = [picture_file(np.zeros((HIGH, WIDE, 3), np.uint8))] * 4
    for name, cameras in (("image_1", ["base_0_rgb"]), ("image_0", ["base_0_rgb", "base_1_rgb"])):
        record = episode_of(DATASETS["bridge"], 0, 4) | {f"steps/observation/{name}": black}
        samples, _ = converted_one(tmp_path / name, "bridge", record)
        assert [list(sample.images) for sample in samples] == [cameras] * 2


@pytest.mark.parametrize(("size", "exchanged"), [((224, 224), True), ((256, 256), False)])
def test_red_and_blue_are_exchanged_in_the_release_that_needs_it(
    tmp_path: Path, size: tuple[int, int], exchanged: bool
) -> None:
    entry = DATASETS["berkeley_fanuc"]
    red = np.zeros((*size, 3), np.uint8)
    red[..., 0] = 255
    record = episode_of(entry, 0, 3) | {f"steps/{camera.key}": [picture_file(red)] * 3 for camera in entry.cameras}
    write_folder(tmp_path, features_of(entry, *size), [[record]])
    source = open_source(tmp_path, options("berkeley_fanuc"))
    assert any("Red and blue" in note for note in source.notes) == exchanged
    episode = source._episode(source.units[0], Steps(parse_example(example(record)), source.features), slice(0, 2))
    for pictures in episode.cameras.values():
        shown = list(pictures)
        assert len(shown) == 2
        assert isinstance(shown[0], np.ndarray) == exchanged
        assert not exchanged or (not isinstance(shown[0], bytes) and shown[0][0, 0].tolist() == [0, 0, 255])


def test_the_name_in_the_files_is_enough(tmp_path: Path) -> None:
    path = folder_of(
        tmp_path / "austin_buds_dataset_converted_externally_to_rlds" / "0.1.0", DATASETS["austin_buds"], [[3]]
    )
    assert open_source(path.parent, options("")).entry.name == "austin_buds"
    folder_of(path.parent / "0.2.0", DATASETS["austin_buds"], [[3]])
    with pytest.raises(UserError, match=r"got the versions \['0\.1\.0', '0\.2\.0'\]"):
        open_source(path.parent, options(""))


def test_splits_and_shards_keep_their_numbers(tmp_path: Path) -> None:
    entry = DATASETS["toto"]
    features = features_of(entry)
    for split, first in (("train", 0), ("val", 3)):
        shards = [[episode_of(entry, first + 0, 3), episode_of(entry, first + 1, 3)], [episode_of(entry, first + 2, 3)]]
        path = write_folder(tmp_path, features, shards, split=split)
    assert [unit.number for unit in open_source(path, options("toto")).units] == [0, 1, 2]
    assert any("Splits left out: val." in note for note in open_source(path, options("toto")).notes)
    (path / "toy-train.tfrecord-00000-of-00002").unlink()
    with pytest.raises(UserError, match="--allow-missing"):
        open_source(path, options("toto:all"))
    left = options("toto:all", allow_missing=True)
    samples, _ = samples_of(path, left)
    assert [(sample.episode, sample.task.split()[1]) for sample in samples[::2]] == [
        (2, "2"),
        (3, "3"),
        (4, "4"),
        (5, "5"),
    ]
    assert any("1 shards are absent" in note for note in open_source(path, left).notes)


def test_the_source_travels_to_other_processes_and_shards(tmp_path: Path) -> None:
    path = folder_of(tmp_path / "rlds", DATASETS["viola"], [[4], [5]])
    source = pickle.loads(pickle.dumps(open_source(path, options("viola"))))
    assert [unit.number for unit in source.units] == [0, 1]
    made = convert(open_source, path, tmp_path / "toy", options("viola"), workers=2)
    assert (made.samples, made.dropped) == (7, {"last step has no action": 2})
    assert {sample.key for sample in read_shards(tmp_path / "toy")} == {
        *(f"00000000_{frame:06d}" for frame in range(3)),
        *(f"00000001_{frame:06d}" for frame in range(4)),
    }


@pytest.mark.skipif(not BRIDGE.is_dir(), reason="the real BridgeData V2 sample is not here")
def test_the_real_bridge_sample() -> None:
    source = open_source(BRIDGE, options("bridge", image_size=64, name="bridge", horizon=16))
    samples = [sample for unit in source.units for sample in source.samples(unit)]
    kept = [sample for sample in samples if isinstance(sample, Sample)]
    assert len(source.units) == 25
    assert len(kept) == 25 * 9
    assert sum(drop.samples for drop in samples if isinstance(drop, Dropped)) == 25
    for sample in kept:
        check_sample(parse_sample(sample_members(sample)), source.card)
    for payload in records(source.shards[0].path):  # why the table skips the first step
        first = parse_example(payload, {"steps/action"})["steps/action"][:6]
        assert isinstance(first, np.ndarray)
        assert np.abs(first).max() < 1e-6
    states = np.stack([sample.state for sample in kept if sample.state is not None]).reshape(25, 9, 7)
    actions = np.stack([sample.actions[0] for sample in kept if sample.actions is not None]).reshape(25, 9, 7)
    moved = states[:, 1:, :3] - states[:, :-1, :3]
    # An action moves the arm from its own observation to the next one: shifted by a step it explains the motion less.
    aligned, late = (
        float(np.corrcoef(moved[:, 1:].ravel(), actions[:, at, :3].ravel())[0, 1]) for at in (slice(1, 8), slice(2, 9))
    )
    assert any("Splits left out: val (no files)." in note for note in source.notes)
    assert aligned > 0.5
    assert aligned > late
    np.testing.assert_array_less(np.abs(actions[..., :6]), 0.5)
    assert set(np.unique(actions[..., 6].round())) <= {0.0, 1.0}
    assert states[..., 6].min() > 0.1
