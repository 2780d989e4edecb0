"""Random crop, rotation and colours of pictures: drawn one by one in a worker, done all at once on a device.

After openpi's JAX training augmentation (`models/model.py` on augmax 0.4.1): crop, enlarge and rotate are one
bilinear resample, black where the turned crop leaves the picture, and wrist cameras keep their geometry. Draws are
per picture. Differences, on purpose: every camera has its own draw, and saturation works (augmax leaves it without
effect). Colours change linearly in RGB, so brightness, contrast, saturation and hue are one 3 x 3 matrix and an
offset; hue turns the chroma plane of YIQ, which keeps the luminance.

Shape letters as in `model/batch.py`: I images, C channels, H W a picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pi05_train.model.batch import Batch
from pi05_train.processing.augmentation_config import AugmentationConfig
from pi05_train.processing.images import BoxTransform
from pi05_train.samples.schema import CAMERAS

LUMA = np.array([0.299, 0.587, 0.114])
RGB_TO_YIQ = np.array([LUMA, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
YIQ_TO_RGB = np.linalg.inv(RGB_TO_YIQ)

SAME_PLACE = np.eye(2, 3)
SAME_COLOURS = np.array([1.0, 1.0, 1.0, 0.0])
_TOGETHER = 32
"""Pictures that exist as floats at once: about 100 MB at 224 pixels."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Change:
    """What shall be done with one picture, as a row of `model.batch.ImageChanges` says it."""

    crop: Floats
    """[2, 3]: where in the old picture (fractions x, y) a position of the new one is read."""
    colours: Floats
    """[4]: brightness, contrast and saturation factors, and the hue's turn in radians."""

    def of_boxes(self) -> BoxTransform:
        """Where the picture's boxes go."""
        return BoxTransform(np.linalg.inv(np.vstack([self.crop, [0.0, 0.0, 1.0]]))[:2])


UNCHANGED = Change(SAME_PLACE, SAME_COLOURS)


def draw_change(camera: str, key: tuple[int, ...], config: AugmentationConfig, size: int) -> Change:
    """The change of a picture of `size` pixels, decided by camera and key alone."""
    rng = np.random.default_rng(np.random.SeedSequence([CAMERAS.index(camera), *key]))
    x, y, turn, chance, *strengths = rng.random(8).tolist()
    moves = config.geometric_on_wrists or "wrist" not in camera
    return Change(
        _crop(x, y, turn, config, size) if moves else SAME_PLACE,
        _colours(strengths, config) if chance < config.colour_probability else SAME_COLOURS,
    )


def _crop(x: float, y: float, turn: float, config: AugmentationConfig, size: int) -> Floats:
    """`Change.crop` for three draws from [0, 1).

    The crop's side is a whole number of pixels (openpi: int(0.95 * 224) = 212), its place is not.
    """
    scale = int(config.crop_fraction * size) / size
    centre = [0.5 + _spread(0.0, 0.5, draw) * (1.0 - scale) for draw in (x, y)]
    return crop_map(scale, centre, math.radians(_spread(0.0, config.rotate_degrees, turn)))


def crop_map(scale: float, centre: Sequence[float], angle: float) -> Floats:
    """`Change.crop` for a crop of this side and centre (fractions x, y), turned by `angle` radians."""
    (x, y), cos, sin = centre, scale * math.cos(angle), scale * math.sin(angle)
    return np.array([[cos, -sin, x - 0.5 * (cos - sin)], [sin, cos, y - 0.5 * (sin + cos)]])


def _colours(draws: Sequence[float], config: AugmentationConfig) -> Floats:
    """`Change.colours` for four draws from [0, 1)."""
    spreads = (config.brightness, config.contrast, config.saturation)
    factors = [_spread(1.0, spread, draw) for spread, draw in zip(spreads, draws[:3], strict=True)]
    return np.array([*factors, 2 * math.pi * _spread(0.0, config.hue, draws[3])])


def _spread(middle: float, spread: float, draw: float) -> float:
    """`draw` from [0, 1) taken to middle +- spread, as numpy's `uniform` rounds it."""
    low, high = middle - spread, middle + spread
    return low + (high - low) * draw


def augmented(batch: Batch) -> Batch:
    """The batch with its images changed as it says, on its device; nothing is left to do with them.

    An image's new bytes depend on the old ones, its change and the kind of device, never on its neighbours.
    """
    if batch.changes is None:
        return batch
    images_ICHW = batch.images_ICHW.clone(memory_format=torch.contiguous_format)
    crops, colours = batch.changes.crops_I23.numpy(), batch.changes.colours_I4.numpy()
    moves, recolours = (crops != SAME_PLACE).any((1, 2)), (colours != SAME_COLOURS).any(1)
    for moved, recoloured in ((True, False), (True, True), (False, True)):
        chosen = np.flatnonzero((moves == moved) & (recolours == recoloured))
        for start in range(0, len(chosen), _TOGETHER):
            part = chosen[start : start + _TOGETHER]
            rows = torch.from_numpy(part).to(images_ICHW.device, non_blocking=True)
            pixels = images_ICHW[rows].to(torch.float32)
            if moved:
                pixels = resample(pixels, crops[part])
            if recoloured:
                pixels = recolour(pixels, colours[part])
            images_ICHW[rows] = pixels.round_().clamp_(0, 255).to(torch.uint8)
    return replace(batch, images_ICHW=images_ICHW, changes=None)


def resample(pixels_ICHW: Tensor, crops_I23: Floats) -> Tensor:
    """One bilinear resample of square float pictures, black outside.

    The sampler's positions run over [-1, 1], ours over [0, 1]. They are summed here, element by element, since
    `affine_grid` multiplies matrices, whose rounding depends on the device's settings and on how many there are.
    """
    turn, shift = crops_I23[..., :2], crops_I23[..., 2:]
    size = pixels_ICHW.shape[-1]
    centres = torch.linspace(-1, 1, size, device=pixels_ICHW.device) * (size - 1) / size
    by_x, by_y, offset = (
        _on_device(part, pixels_ICHW)[:, None, None]
        for part in (turn[..., 0], turn[..., 1], (turn.sum(-1, keepdims=True) + 2 * shift - 1)[..., 0])
    )
    grid_IHW2 = centres[:, None] * by_x + centres[:, None, None] * by_y + offset
    return functional.grid_sample(pixels_ICHW, grid_IHW2, mode="bilinear", padding_mode="zeros", align_corners=False)


def recolour(pixels_ICHW: Tensor, colours_I4: Floats) -> Tensor:
    """Brightness scales, contrast stretches about the mean luminance, saturation and hue act on the chroma.

    Sums run in float64 or element by element, so that neither settings nor neighbours change a byte.
    """
    brightness, contrast, saturation, turn = colours_I4.T
    chroma = np.zeros((len(colours_I4), 3, 3))
    chroma[:, 0, 0] = 1.0
    chroma[:, 1, 1] = chroma[:, 2, 2] = saturation * np.cos(turn)
    chroma[:, 2, 1] = saturation * np.sin(turn)
    chroma[:, 1, 2] = -chroma[:, 2, 1]
    matrices = (brightness * contrast)[:, None, None] * (YIQ_TO_RGB @ chroma @ RGB_TO_YIQ)
    from_red, from_green, from_blue = _on_device(matrices, pixels_ICHW)[..., None, None].unbind(2)
    weights_C, stretches_I = (
        torch.from_numpy(numbers).to(pixels_ICHW.device, non_blocking=True)
        for numbers in (LUMA, (1.0 - contrast) * brightness)
    )
    luminances_I = (pixels_ICHW.mean((2, 3), dtype=torch.float64) * weights_C).sum(1)
    offsets_I = (stretches_I * luminances_I).to(torch.float32)
    red, green, blue = (channel[:, None] for channel in pixels_ICHW.unbind(1))
    return from_red * red + from_green * green + from_blue * blue + offsets_I[:, None, None, None]


def _on_device(numbers: Floats, like: Tensor) -> Tensor:
    return torch.from_numpy(numbers).to(torch.float32).to(like.device, non_blocking=True)
