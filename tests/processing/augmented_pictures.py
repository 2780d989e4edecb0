"""Pictures as the network sees them: by way of the batch, and by the slow way, one picture after another.

`draw_one` and `augment_one` are the oracles: one uniform number after another, and the whole change of one picture
with PyTorch's own affine grid and matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pi05_train.model.batch import Batch
from pi05_train.model.config import ModelConfig, TowerConfig, VisionConfig
from pi05_train.processing.augmentation import RGB_TO_YIQ, YIQ_TO_RGB, Change, augmented, draw_change
from pi05_train.processing.augmentation_config import AugmentationConfig
from pi05_train.processing.example import Example, pack
from pi05_train.processing.images import BoxTransform
from pi05_train.samples.schema import CAMERAS


def batch_of(images: Sequence[Tensor], changes: Sequence[Change]) -> Batch:
    """One segment with these pictures, all square and of one size, and a prompt of one token."""
    size, tower = images[0].shape[-1], TowerConfig(width=8, mlp_dim=8)
    model = ModelConfig(
        name="pictures",
        vision=VisionConfig(image_size=size, patch_size=size, width=8, depth=1, mlp_dim=8, heads=1),
        backbone=tower, expert=tower, depth=1, heads=1, kv_heads=1, head_dim=8, vocab_size=10, action_dim=1,
        action_horizon=1,
    )  # fmt: skip
    return pack([Example(list(images), [1], [], None, None, "s", "WD", "k", changes=changes)], [None], [0], model)


def as_seen(example: Example) -> Tensor:
    """uint8 [I, 3, S, S]: the example's pictures after everything that is to be done with them."""
    return augmented(batch_of(example.images, example.changes)).images_ICHW


def augment(
    image_CHW: Tensor, camera: str, key: tuple[int, ...], config: AugmentationConfig
) -> tuple[Tensor, BoxTransform]:
    """The picture as the network sees it for this draw, and where its boxes went."""
    change = draw_change(camera, key, config, image_CHW.shape[-1])
    return augmented(batch_of([image_CHW], [change])).images_ICHW[0], change.of_boxes()


def draw_one(camera: str, key: tuple[int, ...], config: AugmentationConfig, size: int) -> Change:
    """What `draw_change` must draw."""
    rng = np.random.default_rng(np.random.SeedSequence([CAMERAS.index(camera), *key]))
    scale = int(config.crop_fraction * size) / size
    centre = 0.5 + rng.uniform(-0.5, 0.5, size=2) * (1.0 - scale)
    angle = math.radians(rng.uniform(-config.rotate_degrees, config.rotate_degrees))
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    crop = np.column_stack([turn, centre - turn @ [0.5, 0.5]])
    recolours = rng.random() < config.colour_probability
    factors = [rng.uniform(1 - s, 1 + s) for s in (config.brightness, config.contrast, config.saturation)]
    colours = np.array([*factors, 2 * math.pi * rng.uniform(-config.hue, config.hue)])
    moves = config.geometric_on_wrists or "wrist" not in camera
    return Change(crop if moves else np.eye(2, 3), colours if recolours else np.array([1.0, 1.0, 1.0, 0.0]))


def augment_one(image_CHW: Tensor, change: Change) -> Tensor:
    """uint8 [3, S, S]: what `augmented` must make of this picture."""
    pixels = image_CHW.to(torch.float32)
    if not np.array_equal(change.crop, np.eye(2, 3)):
        pixels = _resample(pixels, change.crop)
    if not np.array_equal(change.colours, [1, 1, 1, 0]):
        pixels = _recolour(pixels, *change.colours.tolist())
    return pixels.round_().clamp_(0, 255).to(torch.uint8)


def _resample(pixels_CHW: Tensor, crop: NDArray[np.float64]) -> Tensor:
    turn, shift = crop[:, :2], crop[:, 2]
    theta = np.column_stack([turn, turn.sum(1) + 2 * shift - 1])
    grid = functional.affine_grid(
        torch.from_numpy(theta)[None].to(torch.float32), [1, *pixels_CHW.shape], align_corners=False
    )
    sampled = functional.grid_sample(pixels_CHW[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return sampled[0]


def _recolour(pixels_CHW: Tensor, brightness: float, contrast: float, saturation: float, turn: float) -> Tensor:
    cos, sin = saturation * math.cos(turn), saturation * math.sin(turn)
    chroma = np.array([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])
    matrix = brightness * contrast * (YIQ_TO_RGB @ chroma @ RGB_TO_YIQ)
    channels = pixels_CHW.flatten(1)
    mean = float(np.array([0.299, 0.587, 0.114]) @ channels.mean(1).double().numpy())
    offset = (1.0 - contrast) * brightness * mean
    return (torch.from_numpy(matrix).to(torch.float32) @ channels + offset).view_as(pixels_CHW)
