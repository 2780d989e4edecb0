"""Pictures as they are stored: square, aspect kept, black borders (openpi's `image_tools.resize_with_pad`), JPEG."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from pi05_train.convert.source import Options
from pi05_train.samples.schema import Box


class PictureError(ValueError):
    """A picture that cannot be read: the sample is dropped, the conversion goes on."""


@dataclass(frozen=True)
class Placement:
    """Where a picture of some size stands on the stored square, in its pixels."""

    top: int
    left: int
    height: int
    width: int
    size: int

    def point(self, y: float, x: float) -> tuple[float, float]:
        """Fractions (y, x) of the picture as fractions of the square."""
        return (self.top + y * self.height) / self.size, (self.left + x * self.width) / self.size

    def box(self, box: Box) -> Box:
        """A box in fractions of the picture, in fractions of the square."""
        (y_min, x_min), (y_max, x_max) = self.point(box.y_min, box.x_min), self.point(box.y_max, box.x_max)
        return replace(box, y_min=y_min, x_min=x_min, y_max=y_max, x_max=x_max)


def placement(height: int, width: int, options: Options) -> Placement:
    """Where a picture of `height` and `width` pixels stands: as large as fits, in the middle."""
    size, longest = options.image_size, max(height, width)
    if not longest:
        raise PictureError("no pixels")
    high, wide = max(1, height * size // longest), max(1, width * size // longest)
    return Placement((size - high) // 2, (size - wide) // 2, high, wide, size)


def jpeg(picture: NDArray[np.uint8] | bytes, options: Options) -> bytes:
    """The picture ([height, width, 3] uint8 RGB, or the bytes of an image file) as the JPEG to store.

    A JPEG that is an RGB square of the right size already is kept byte for byte. Turned pictures (EXIF) stay as their
    pixels lie, because annotations refer to those. Raises PictureError for what cannot be read.
    """
    image = _opened(picture)
    fits = image.size == (options.image_size, options.image_size)
    if isinstance(picture, bytes) and fits and image.format == "JPEG" and image.mode == "RGB" and _whole(picture):
        return picture
    pixels = image if image.mode == "RGB" else image.convert("RGBA" if _transparent(image) else "RGB").convert("RGB")
    if not fits:
        place = placement(pixels.height, pixels.width, options)
        square = Image.new("RGB", (place.size, place.size))
        square.paste(pixels.resize((place.width, place.height), Image.Resampling.BILINEAR), (place.left, place.top))
        pixels = square
    buffer = io.BytesIO()
    pixels.save(buffer, "JPEG", quality=options.jpeg_quality, subsampling=0)
    return buffer.getvalue()


def png(picture: NDArray[np.uint8]) -> bytes:
    """The picture ([height, width, 3] uint8 RGB) as a PNG file of the same pixels; raises PictureError."""
    buffer = io.BytesIO()
    _opened(picture).save(buffer, "PNG")
    return buffer.getvalue()


def picture_size(content: bytes) -> tuple[int, int]:
    """(height, width) of an image file in memory; raises PictureError for what is none."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.height, image.width
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise PictureError(str(error)) from error


def provenance(options: Options) -> dict[str, str]:
    """How pictures were stored; the engine writes it into every sample."""
    size = options.image_size
    return {
        "resize": f"{size}x{size}, aspect kept, black borders, bilinear",
        "jpeg": f"pillow {PIL.__version__} q{options.jpeg_quality} 4:4:4; RGB JPEGs of that size kept",
    }


def _opened(picture: NDArray[np.uint8] | bytes) -> Image.Image:
    """Decoded, so that a damaged file is found here."""
    if isinstance(picture, bytes):
        try:
            image = Image.open(io.BytesIO(picture))
            image.load()
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise PictureError(str(error)) from error
        return image
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or 0 in picture.shape:
        raise PictureError(f"{picture.dtype} {list(picture.shape)} instead of uint8 [height, width, 3]")
    return Image.fromarray(picture)


def _transparent(image: Image.Image) -> bool:
    return image.mode in ("LA", "PA") or "transparency" in image.info


def _whole(content: bytes) -> bool:
    return content[:2] == b"\xff\xd8" and content[-2:] == b"\xff\xd9"
