"""Pictures: right size, target visible, and boxes where the camera puts the things."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from pi05_train.errors import UserError
from pi05_train.samples.schema import Box
from pi05_train.simulation.fetch import TARGET_RADIUS_M, Fetch
from pi05_train.simulation.metaworld import MetaWorld
from pi05_train.simulation.packages import load
from pi05_train.simulation.rendering import box_of, jpeg
from pi05_train.simulation.rooms import ROOMS


@pytest.fixture(scope="module")
def push() -> Iterator[Fetch]:
    robot = Fetch("fetch-push", 96)
    yield robot
    robot.close()


def labelled(boxes: tuple[Box, ...], label: str) -> Box | None:
    return next((box for box in boxes if box.label == label), None)


@pytest.mark.parametrize("size", [16, 64, 225])
def test_pictures_are_square_at_any_size(size: int) -> None:
    robot = Fetch("fetch-reach", size)
    robot.restart(1, ROOMS[1])
    assert robot.renderer.picture(robot.data, robot.spec.views[0]).shape == (size, size, 3)
    robot.close()


def test_the_reach_target_shows_as_red_at_64_pixels() -> None:
    robot = Fetch("fetch-reach", 64)
    shown = []
    for seed in range(6):
        robot.restart(seed, ROOMS[seed])
        pictures = [robot.renderer.picture(robot.data, view).astype(int) for view in robot.spec.views]
        red = [int(((p[..., 0] > 120) & (p[..., 1] < 60) & (p[..., 2] < 60)).sum()) for p in pictures]
        shown.append(max(red))
    robot.close()
    assert min(shown) >= 4, shown


def test_boxes_lie_where_the_camera_projects_the_things(push: Fetch) -> None:
    view, shown = push.spec.views[0], 0
    for seed in range(8):
        push.restart(seed, ROOMS[seed])
        box = labelled(push.boxes(), "red ball")
        if box is None:  # behind the gripper
            continue
        shown += 1
        top = push.target + np.array([0, 0, TARGET_RADIUS_M])
        (y, x), edge = push.renderer.project(push.data, view, np.stack([push.target, top]))
        assert box.y_min - 0.02 <= y <= box.y_max + 0.02
        assert box.x_min - 0.02 <= x <= box.x_max + 0.02
        # Seen whole, the ball is twice its radius wide.
        radius = abs(float(edge[0]) - float(y))
        assert box.x_max - box.x_min <= 2.6 * radius + 0.02
    assert shown >= 5


def test_a_camera_that_hangs_upside_down_is_turned_for_pictures_boxes_and_projection() -> None:
    robot = MetaWorld("push", 96)
    robot.restart(2, ROOMS[2])
    box = labelled(robot.boxes(), "puck")
    ((y, x),) = robot.renderer.project(robot.data, robot.spec.views[0], robot.object_position[None])
    robot.close()
    assert box is not None
    assert abs((box.y_min + box.y_max) / 2 - y) < 0.03
    assert abs((box.x_min + box.x_max) / 2 - x) < 0.03


def test_the_box_of_a_mask_is_tight_and_hidden_things_have_none() -> None:
    mask = np.zeros((10, 20), bool)
    mask[2:5, 4:10] = True
    assert box_of(mask, "cup") == Box("cup", 0.2, 0.2, 0.5, 0.5)
    assert box_of(np.zeros((10, 20), bool), "cup") is None


def test_a_jpeg_keeps_a_small_red_thing_red() -> None:
    picture = np.full((32, 32, 3), 200, np.uint8)
    picture[10:13, 10:13] = (220, 20, 20)
    decoded = np.asarray(Image.open(io.BytesIO(jpeg(picture)))).astype(int)
    assert np.abs(decoded[11, 11] - picture[11, 11]).max() < 40


def test_a_missing_simulator_names_the_extra() -> None:
    with pytest.raises(UserError, match=r"pi05_train\[sim\]"):
        load("no_such_simulator")


def test_a_machine_that_cannot_render_is_told_which_packages_to_install() -> None:
    code = "from pi05_train.simulation.packages import mujoco\nmujoco()"
    run = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"MUJOCO_GL": "teapot"}, capture_output=True, text=True
    )
    assert "UserError" in run.stderr
    assert "libegl1 libosmesa6" in run.stderr
