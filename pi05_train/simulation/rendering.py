"""Square pictures and segmentation of a MuJoCo scene, fast enough for software rendering.

Shadows, reflections and multisampling cost 10 to 25 times the rest in software rendering. Pictures are rendered
at twice the size and averaged instead, which costs little and keeps small objects visible.
"""

from __future__ import annotations

import io
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pi05_train.samples.schema import Box
from pi05_train.simulation.packages import graphics_error, mujoco

SUPERSAMPLING = 2
JPEG_QUALITY = 93


@dataclass(frozen=True)
class View:
    """One camera: `name` is one of the schema's `CAMERAS`; either a camera of the model or a free one."""

    name: str
    model_camera: str = ""
    distance: float = 1.0
    azimuth: float = 0.0
    elevation: float = 0.0
    lookat: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Metres; with `distance` (metres), `azimuth` and `elevation` (degrees) the free camera of MuJoCo."""
    half_turn: bool = False
    """The camera hangs upside down: turn the picture by 180 degrees."""


def jpeg(picture: NDArray[np.uint8]) -> bytes:
    """The JPEG file of an [H, W, 3] picture, colours at full resolution."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


class SceneRenderer:
    """Renders one model. Owns an OpenGL context: `close` frees it, at the latest when the interpreter ends."""

    def __init__(self, model: Any, size: int) -> None:
        library = mujoco()
        self.size = size
        self._model = model
        side = size * SUPERSAMPLING
        # Both are read when the context is created, so they are set before.
        model.vis.quality.shadowsize = 0
        model.vis.quality.offsamples = 0
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, side)
        model.vis.global_.offheight = max(model.vis.global_.offheight, side)
        try:
            self._renderer = library.Renderer(model, side, side)
        except Exception as error:  # mujoco raises many types here, some of them the GL library's own
            raise graphics_error(error) from error
        for flag in (library.mjtRndFlag.mjRND_SHADOW, library.mjtRndFlag.mjRND_REFLECTION):
            self._renderer.scene.flags[flag] = False
        # Left to the garbage collector at exit, the context is freed after the GL library and complains.
        self.close = weakref.finalize(self, self._renderer.close)
        self._option = library.MjvOption()
        self._cameras: dict[View, Any] = {}

    def _aim(self, data: Any, view: View) -> None:
        self._renderer.update_scene(data, self._camera(view), self._option)

    def _camera(self, view: View) -> Any:
        if view.model_camera:
            return view.model_camera
        if view not in self._cameras:
            camera = mujoco().MjvCamera()
            camera.distance, camera.azimuth, camera.elevation = view.distance, view.azimuth, view.elevation
            camera.lookat[:] = view.lookat
            self._cameras[view] = camera
        return self._cameras[view]

    def picture(self, data: Any, view: View) -> NDArray[np.uint8]:
        """[size, size, 3]."""
        self._aim(data, view)
        large = self._renderer.render()
        if view.half_turn:
            large = large[::-1, ::-1]
        blocks = large.reshape(self.size, SUPERSAMPLING, self.size, SUPERSAMPLING, 3).astype(np.uint32)
        area = SUPERSAMPLING**2
        averaged: NDArray[np.uint8] = ((blocks.sum(axis=(1, 3)) + area // 2) // area).astype(np.uint8)
        return averaged

    def segments(self, data: Any, view: View) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Object id and object type (mjtObj) at each of [2 size, 2 size] points; -1 is background."""
        self._aim(data, view)
        self._renderer.enable_segmentation_rendering()
        try:
            found = self._renderer.render()
        finally:
            self._renderer.disable_segmentation_rendering()
        if view.half_turn:
            found = found[::-1, ::-1]
        return found[..., 0], found[..., 1]

    def project(self, data: Any, view: View, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """[N, 3] world points, metres -> [N, 2] (y, x) as fractions of the picture, through the camera's frustum."""
        self._aim(data, view)
        left, right = self._renderer.scene.camera
        position = (np.asarray(left.pos) + np.asarray(right.pos)) / 2
        forward, up = np.asarray(left.forward, np.float64), np.asarray(left.up, np.float64)
        offsets = points - position
        depth = offsets @ forward
        half = (left.frustum_top - left.frustum_bottom) / 2 / left.frustum_near
        y = 0.5 - 0.5 * (offsets @ up) / (depth * half)
        x = 0.5 + 0.5 * (offsets @ np.cross(forward, up)) / (depth * half)
        found = np.stack([y, x], axis=-1)
        return 1 - found if view.half_turn else found


def check_rendering() -> None:
    """Refuse (UserError) a machine on which nothing can be rendered."""
    SceneRenderer(mujoco().MjModel.from_xml_string("<mujoco/>"), 16).close()


def box_of(mask: NDArray[np.bool_], label: str, *, least_points: int = 6, camera: str = "base_0_rgb") -> Box | None:
    """The tight box around the True points of [H, W], as fractions; None when fewer than `least_points` show."""
    if int(mask.sum()) < least_points:
        return None
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = mask.shape
    return Box(
        label=label,
        y_min=float(rows[0] / height),
        x_min=float(columns[0] / width),
        y_max=float((rows[-1] + 1) / height),
        x_max=float((columns[-1] + 1) / width),
        camera=camera,
    )
