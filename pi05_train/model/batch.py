"""The packed batch: the network's only input.

Shape letters: B segments (one per example), N backbone rows = sum of prefix and target lengths, I images,
V image tokens = I * tokens_per_image, L labels, A segments with actions, K flow draws, H horizon, D action dims
(states are padded to as many).

The backbone stream holds, segment after segment, the prefix (image tokens, then prompt tokens) followed by the
target. Nothing is padded and no mask exists: lengths say everything.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class SegmentInfo:
    """Where a segment came from; the network never looks at it."""

    source: str
    kind: str
    key: str
    draw: int
    """Index of the draw from its source: keys augmentation and flow noise."""


@dataclass(frozen=True)
class ImageChanges:
    """What an engine still does with each image before the network sees it; on the host, whatever the batch's device.

    The network never looks at it, and is given no batch that has it.
    """

    crops_I23: Tensor
    """float64: where in the image (fractions x, y) a position of the changed one is read; the identity leaves it."""
    colours_I4: Tensor
    """float64: factors of brightness, contrast and saturation and the hue's turn in radians; 1, 1, 1, 0 leaves them."""


@dataclass(frozen=True)
class Batch:
    """Packed examples of one micro-step."""

    images_ICHW: Tensor
    """uint8; the network maps x to x / 255 * 2 - 1."""
    image_rows_V: Tensor
    """int64 rows of the backbone stream that take the image tokens, image after image."""
    token_ids_N: Tensor
    """int64; 0 at image rows."""
    positions_N: Tensor
    """int64, 0.. within each segment."""
    prefix_lengths: tuple[int, ...]
    target_lengths: tuple[int, ...]
    label_rows_L: Tensor
    """int64 rows of the backbone stream whose output predicts a target token (the row before it)."""
    labels_L: Tensor
    """int64 target token ids."""
    label_segments_L: Tensor
    """int64 segment of each label."""
    action_segments: tuple[int, ...]
    """Segments that carry actions, ascending."""
    actions_AHD: Tensor
    """float32, normalised."""
    action_mask_AHD: Tensor
    """bool; False on padded dimensions and on steps past the episode's end."""
    noise_AKHD: Tensor
    time_AK: Tensor
    """Flow time in (0, 1]: 1 is noise, 0 is data."""
    states_BD: Tensor
    """float32, normalised and zero padded; zeros where there is none. Only a model with a state token looks at it."""
    segments: tuple[SegmentInfo, ...]
    changes: ImageChanges | None = None
    """None: the images are as the network shall see them."""

    @property
    def num_segments(self) -> int:
        return len(self.prefix_lengths)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with every tensor on `device`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True) for name, value in values.items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)
