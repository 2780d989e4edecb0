"""Painted robomimic and LIBERO files: what stands in a picture, a state and an action tells where it belongs."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE = 16
ROBOMIMIC = {"robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2}
ROBOMIMIC_CAMERAS = ("agentview_image", "robot0_eye_in_hand_image")
LIBERO = {"ee_states": 6, "gripper_states": 2, "joint_states": 7}
LIBERO_CAMERAS = ("agentview_rgb", "eye_in_hand_rgb")
CONTROLLER = {"type": "OSC_POSE", "control_delta": True}
ENV_KWARGS = {"control_freq": 20, "robots": ["Panda"], "controller_configs": CONTROLLER}
ENV_ARGS = {"env_name": "Lift", "env_kwargs": ENV_KWARGS}


def painted(demo: int, camera: int, frames: int) -> NDArray[np.uint8]:
    """[frames, SIZE, SIZE, 3]: red for the frame, green for demonstration and camera, white in the upper left."""
    pictures = np.zeros((frames, SIZE, SIZE, 3), np.uint8)
    pictures[..., 0] = 20 * np.arange(frames)[:, None, None]
    pictures[..., 1] = 20 * (2 * demo + camera) % 256
    pictures[:, : SIZE // 2, : SIZE // 2] = 255
    return pictures


def read_paint(content: bytes) -> tuple[int, int]:
    """(Frame, 2 demonstration + camera) of a painted picture that stands upright."""
    pixels = np.asarray(Image.open(io.BytesIO(content)), float)
    assert pixels.shape == (SIZE, SIZE, 3)
    assert pixels[: SIZE // 2 - 2, : SIZE // 2 - 2].min() > 220, "not upright"
    red, green = pixels[SIZE // 2 + 2 :, SIZE // 2 + 2 :, :2].mean((0, 1))
    return round(red / 20), round(green / 20)


def write(
    path: Path,
    lengths: Sequence[int] = (5, 7),
    *,
    states: dict[str, int] = ROBOMIMIC,
    cameras: Sequence[str] = ROBOMIMIC_CAMERAS,
    attributes: dict[str, Any] | None = None,
    turned: bool = False,
    mask: dict[str, list[str]] | None = None,
) -> Path:
    """A file of painted demonstrations; entry 0 of a state and an action is 100 demonstration + frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as root:
        data = root.create_group("data")
        data.attrs.update({"env_args": json.dumps(ENV_ARGS)} if attributes is None else attributes)
        for k, frames in enumerate(lengths):
            demo = data.create_group(f"demo_{k}")
            demo.attrs["num_samples"] = frames
            clock = 100 * k + np.arange(frames)[:, None]
            demo["actions"] = clock + np.linspace(0, 0.5, 7)
            demo["rewards"] = np.eye(frames)[-1]
            for name, size in states.items():
                demo[f"obs/{name}"] = clock + np.linspace(0, 0.5, size)
            for number, name in enumerate(cameras):
                pictures = painted(k, number, frames)
                demo.create_dataset(f"obs/{name}", data=pictures[:, ::-1, ::-1] if turned else pictures)
        for name, demos in (mask or {}).items():
            root[f"mask/{name}"] = np.array(demos, "S")
    return path


def write_libero(path: Path, attributes: dict[str, Any] | None = None, lengths: Sequence[int] = (5, 7)) -> Path:
    return write(path, lengths, states=LIBERO, cameras=LIBERO_CAMERAS, attributes=attributes or {}, turned=True)


def change(path: Path, edit: Callable[[Any], object]) -> Path:
    with h5py.File(path, "r+") as root:
        edit(root)
    return path


def rewritten(path: str, value: Any) -> Callable[[Any], None]:
    def edit(root: Any) -> None:
        del root[path]
        if value is not None:
            root[path] = value

    return edit
