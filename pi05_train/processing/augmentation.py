"""Random crop, rotation and colours of one picture, decided by a key alone.

After openpi's JAX training augmentation (`models/model.py` on augmax 0.4.1): crop, enlarge and rotate are one
bilinear resample, black where the turned crop leaves the picture, and wrist cameras keep their geometry. Draws are
per picture. Differences, on purpose: every camera has its own draw, and saturation works (augmax leaves it without
effect). Colours change linearly in RGB, so brightness, contrast, saturation and hue are one 3 x 3 matrix and an
offset; hue turns the chroma plane of YIQ, which keeps the luminance.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pi05_train.processing.augmentation_config import AugmentationConfig
from pi05_train.processing.images import BoxTransform
from pi05_train.samples.schema import CAMERAS

LUMA = np.array([0.299, 0.587, 0.114])
RGB_TO_YIQ = np.array([LUMA, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
YIQ_TO_RGB = np.linalg.inv(RGB_TO_YIQ)


def augment(
    image_CHW: Tensor, camera: str, key: tuple[int, ...], config: AugmentationConfig, *, geometric: bool = True
) -> tuple[Tensor, BoxTransform]:
    """The changed uint8 picture, same size, and where its boxes went; the same key gives the same bytes.

    `geometric=False` keeps positions, with the same colours as before.
    """
    rng = np.random.default_rng(np.random.SeedSequence([CAMERAS.index(camera), *key]))
    crop, colours = _draw_crop(rng, config, image_CHW.shape[-1]), _draw_colours(rng, config)
    moves = geometric and (config.geometric_on_wrists or "wrist" not in camera)
    if not moves and colours is None:
        return image_CHW, BoxTransform.identity()
    pixels = image_CHW.to(torch.float32)
    transform = BoxTransform.identity()
    if moves:
        pixels = _resample(pixels, crop)
        full = np.vstack([crop, [0.0, 0.0, 1.0]])
        transform = BoxTransform(np.linalg.inv(full)[:2])
    if colours is not None:
        pixels = _recolour(pixels, *colours)
    return pixels.round_().clamp_(0, 255).to(torch.uint8), transform


def _draw_crop(rng: np.random.Generator, config: AugmentationConfig, size: int) -> NDArray[np.float64]:
    """[2, 3]: where in the old picture (fractions x, y) a position of the new one is read.

    The crop's side is a whole number of pixels (openpi: int(0.95 * 224) = 212), its place is not.
    """
    scale = int(config.crop_fraction * size) / size
    centre = 0.5 + rng.uniform(-0.5, 0.5, size=2) * (1.0 - scale)
    angle = math.radians(rng.uniform(-config.rotate_degrees, config.rotate_degrees))
    return crop_map(scale, centre, angle)


def crop_map(scale: float, centre: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    """The map of `_draw_crop` for a crop of this side and centre (fractions x, y), turned by `angle` radians."""
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return np.column_stack([turn, centre - turn @ [0.5, 0.5]])


def _resample(pixels_CHW: Tensor, crop: NDArray[np.float64]) -> Tensor:
    """One bilinear resample, black outside. The sampler's positions run over [-1, 1], ours over [0, 1]."""
    turn, shift = crop[:, :2], crop[:, 2]
    theta = np.column_stack([turn, turn.sum(1) + 2 * shift - 1])
    grid = functional.affine_grid(
        torch.from_numpy(theta)[None].to(torch.float32), [1, *pixels_CHW.shape], align_corners=False
    )
    sampled = functional.grid_sample(pixels_CHW[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return sampled[0]


def _draw_colours(rng: np.random.Generator, config: AugmentationConfig) -> tuple[float, float, float, float] | None:
    """Brightness, contrast and saturation factors and the hue's turn in radians; None leaves the colours alone."""
    changes = rng.random() < config.colour_probability
    brightness, contrast, saturation = (
        rng.uniform(1 - spread, 1 + spread) for spread in (config.brightness, config.contrast, config.saturation)
    )
    turn = 2 * math.pi * rng.uniform(-config.hue, config.hue)
    return (brightness, contrast, saturation, turn) if changes else None


def _recolour(pixels_CHW: Tensor, brightness: float, contrast: float, saturation: float, turn: float) -> Tensor:
    """Brightness scales, contrast stretches about the mean luminance, saturation and hue act on the chroma."""
    cos, sin = saturation * math.cos(turn), saturation * math.sin(turn)
    chroma = np.array([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])
    matrix = brightness * contrast * (YIQ_TO_RGB @ chroma @ RGB_TO_YIQ)
    channels = pixels_CHW.flatten(1)
    mean = float(LUMA @ channels.mean(1).double().numpy())
    offset = (1.0 - contrast) * brightness * mean
    return (torch.from_numpy(matrix).to(torch.float32) @ channels + offset).view_as(pixels_CHW)
