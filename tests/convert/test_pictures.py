from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from pi05_train.convert.pictures import PictureError, jpeg, picture_size, placement
from pi05_train.convert.source import Options
from pi05_train.samples.schema import Box

OPTIONS = Options("x", "WD", image_size=64)


def pixels_of(content: bytes) -> NDArray[np.int16]:
    return np.asarray(Image.open(io.BytesIO(content)), np.int16)


def encoded(image: Image.Image, kind: str = "PNG", **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def openpi_pillow(image: Image.Image, size: int) -> Image.Image:
    """What openpi's `image_tools.resize_with_pad` says, in its own arithmetic, for a square target."""
    ratio = max(image.width / size, image.height / size)
    resized = image.resize((int(image.width / ratio), int(image.height / ratio)), Image.Resampling.BILINEAR)
    square = Image.new("RGB", (size, size), 0)
    square.paste(resized, (max(0, int((size - resized.width) / 2)), max(0, int((size - resized.height) / 2))))
    return square


@pytest.mark.parametrize("shape", [(48, 64), (480, 640), (180, 320), (64, 48), (64, 64), (9, 7), (128, 128)])
def test_a_picture_is_resized_as_openpi_does(shape: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    wanted = encoded(openpi_pillow(Image.fromarray(picture), 64), "JPEG", quality=95, subsampling=0)
    assert jpeg(picture, OPTIONS) == wanted


@settings(max_examples=25, deadline=None)
@given(st.integers(20, 200), st.integers(20, 200), st.tuples(*[st.floats(0, 0.5)] * 2))
def test_a_box_stays_on_its_thing(height: int, width: int, corner: tuple[float, float]) -> None:
    picture = np.zeros((height, width, 3), np.uint8)
    y, x = (round(part * size) for part, size in zip(corner, (height, width), strict=True))
    picture[y : y + height // 2, x : x + width // 2] = 255
    box = Box("thing", y / height, x / width, (y + height // 2) / height, (x + width // 2) / width)
    placed = placement(height, width, OPTIONS).box(box)
    bright = pixels_of(jpeg(picture, OPTIONS))[..., 0] > 127
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    found = (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1)
    wanted = [64 * part for part in (placed.y_min, placed.x_min, placed.y_max, placed.x_max)]
    np.testing.assert_allclose(found, wanted, atol=1.5)


def test_a_jpeg_of_the_right_size_is_kept_byte_for_byte() -> None:
    square = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    content = encoded(square, "JPEG", quality=60)
    assert jpeg(content, OPTIONS) == content
    grey = encoded(square.convert("L"), "JPEG", quality=60)
    assert pixels_of(jpeg(grey, OPTIONS)).shape == (64, 64, 3)
    assert pixels_of(jpeg(content + b"trailing", OPTIONS)).shape == (64, 64, 3)
    assert jpeg(content + b"trailing", OPTIONS)[-2:] == b"\xff\xd9"


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1", "I;16"])
def test_any_kind_of_pixels_becomes_rgb(mode: str) -> None:
    image = Image.new(mode, (30, 20)) if mode == "I;16" else Image.new("RGB", (30, 20), (200, 200, 200)).convert(mode)
    content = encoded(image, "TIFF" if mode == "CMYK" else "PNG")
    assert pixels_of(jpeg(content, OPTIONS)).shape == (64, 64, 3)


@pytest.mark.parametrize(
    "bad",
    [
        b"", b"no picture", encoded(Image.new("RGB", (40, 40)), "JPEG")[:300],
        np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8),
    ],
)  # fmt: skip
def test_what_is_no_picture_is_said_so(bad: NDArray[np.uint8] | bytes) -> None:
    with pytest.raises(PictureError):
        jpeg(bad, OPTIONS)


def test_the_size_of_a_file() -> None:
    assert picture_size(encoded(Image.new("RGB", (30, 20)))) == (20, 30)
    with pytest.raises(PictureError):
        picture_size(b"no picture")
