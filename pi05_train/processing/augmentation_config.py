"""Strengths of image augmentation. No torch here: configuration stays quick."""

from __future__ import annotations

from dataclasses import dataclass

from pi05_train.errors import UserError


@dataclass(frozen=True)
class AugmentationConfig:
    """openpi's JAX training augmentation (`models/model.py`); every number is per image and per draw."""

    enabled: bool = True
    crop_fraction: float = 0.95
    """Side of the random crop, as a fraction of the image, cut to whole pixels; it is enlarged back to full size."""
    rotate_degrees: float = 5.0
    """Rotation is uniform in +- this angle."""
    geometric_on_wrists: bool = False
    """Crop and rotate wrist cameras too (the paper's sentence); openpi's code, and the default, leaves them alone."""
    brightness: float = 0.3
    contrast: float = 0.4
    saturation: float = 0.5
    """The three factors are uniform in 1 +- this number."""
    hue: float = 0.1
    """Hue turns by a uniform share of the colour circle in +- this number."""
    colour_probability: float = 0.5
    """Chance that an image's colours are changed at all."""

    def __post_init__(self) -> None:
        limits = {
            "crop_fraction": (0.1, 1.0),
            "rotate_degrees": (0.0, 180.0),
            "brightness": (0.0, 1.0),
            "contrast": (0.0, 1.0),
            "saturation": (0.0, 1.0),
            "hue": (0.0, 0.5),
            "colour_probability": (0.0, 1.0),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise UserError(
                    f"augmentation.{name}", got=getattr(self, name), expected=f"{low} to {high}", do="correct it"
                )
