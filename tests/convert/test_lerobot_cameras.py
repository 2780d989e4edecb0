"""Cameras of LeRobot datasets under our names, and how the robot is commanded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pi05_train.convert.lerobot import open_source
from pi05_train.errors import UserError
from tests.convert.lerobot_folders import (
    OPTIONS,
    Dataset,
    converted,
    edit_info,
    painted,
)


def test_cameras_by_override(tmp_path: Path) -> None:
    root = Dataset(cameras={"observation.images.eye": 0, "observation.images.depthish": 5, "gripper": 9}).write(
        tmp_path / "set"
    )
    with pytest.raises(UserError) as refused:
        open_source(root, OPTIONS)
    assert "cameras eye, depthish, gripper: got names that are not known" in str(refused.value)
    proposal = str(refused.value).partition('--dataset "')[2].partition('"')[0]
    assert open_source(root, replace(OPTIONS, dataset=proposal)).card.cameras == [
        "base_0_rgb", "base_1_rgb", "left_wrist_0_rgb",
    ]  # fmt: skip
    source = open_source(
        root, replace(OPTIONS, dataset="observation.images.eye=base_0_rgb, gripper=left_wrist_0_rgb, depthish=none")
    )
    samples, _ = converted(source)
    assert {name: painted(jpeg) for name, jpeg in samples[0].images.items()} == {"base_0_rgb": 0, "left_wrist_0_rgb": 9}
    assert "Camera depthish is left out, as asked for." in source.notes


def test_two_cameras_with_one_name_are_refused(tmp_path: Path) -> None:
    root = Dataset(cameras={"observation.images.top": 0, "observation.images.front": 5}).write(tmp_path / "set")
    with pytest.raises(UserError, match=r"cameras top, front: got one name, base_0_rgb, for all.*front=base_1_rgb"):
        open_source(root, OPTIONS)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("top=base_9", "--dataset: got 'top=base_9'"),
        ("top", "--dataset: got 'top'"),
        ("tip=base_0_rgb", r"--dataset: got \['tip'\], expected cameras among \['top'\]"),
        ("control_mode=velocity", "got 'control_mode=velocity'"),
    ],
)
def test_overrides_that_say_nothing(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        open_source(Dataset().write(tmp_path / "set"), replace(OPTIONS, dataset=text))


def test_depth_maps_are_no_cameras(tmp_path: Path) -> None:
    root = Dataset(cameras={"observation.images.top": 0, "observation.images.top_depth": 0}).write(tmp_path / "set")
    edit_info(root, lambda info: info["features"]["observation.images.top_depth"].update(
        info={"video.is_depth_map": True}
    ))  # fmt: skip
    source = open_source(root, OPTIONS)
    assert source.card.cameras == ["base_0_rgb"]
    assert "Depth map top_depth is left out." in source.notes


@pytest.mark.parametrize(
    ("names", "mode", "guessed"),
    [
        ([["shoulder_pan.pos", "elbow_flex.pos", "gripper.pos"]], "joint", False),
        ({"axes": ["x", "y", "z"]}, "end effector", False),
        ({"motors": ["a", "b", "c"]}, "joint", True),
        (None, "joint", True),
    ],
)
def test_the_control_mode_from_names(tmp_path: Path, names: object, mode: str, guessed: bool) -> None:
    root = Dataset(names=names).write(tmp_path / "set")
    source = open_source(root, OPTIONS)
    assert source.card.control_mode == mode
    assert any("is a guess" in note for note in source.notes) == guessed
    told = open_source(root, replace(OPTIONS, dataset="control_mode=end effector"))
    assert told.card.control_mode == "end effector"
    assert not any("is a guess" in note for note in told.notes)
