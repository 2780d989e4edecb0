"""Pictures are resized as openpi's data pipeline does, and boxes stay on what they show."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pi05_train.errors import UserError
from pi05_train.processing.images import BoxTransform, decode_jpeg, resize_with_pad
from pi05_train.samples.schema import Box
from tests.golden_numbers import Array, golden


def reference(*names: str) -> list[Array]:
    """Arrays of the reference resizes; the extract holds a few of them only."""
    data = golden("preprocessing/resize_with_pad")
    if not data.keys() >= set(names):
        pytest.skip("this picture is not in the extract of the reference numbers")
    return [data[name] for name in names]


def resized(image_HWC: Array, height: int, width: int) -> Array:
    image, _ = resize_with_pad(torch.from_numpy(image_HWC).permute(2, 0, 1), height, width)
    found: Array = image.permute(1, 2, 0).numpy()
    return found


@pytest.mark.parametrize("name", ["A", "B", "C"])
@pytest.mark.parametrize(("suffix", "height", "width"), [("", 224, 224), ("_64x96", 64, 96)])
def test_resizing_is_openpis_data_pipeline_bit_for_bit(name: str, suffix: str, height: int, width: int) -> None:
    picture, expected = reference(f"{name}.in_u8", f"{name}.pil_u8{suffix}")
    np.testing.assert_array_equal(resized(picture, height, width), expected)


@pytest.mark.parametrize("name", ["A", "B", "C"])
@pytest.mark.parametrize(("suffix", "height", "width"), [("", 224, 224), ("_64x96", 64, 96)])
def test_resizing_is_openpis_jax_within_a_grey_level(name: str, suffix: str, height: int, width: int) -> None:
    picture, expected = reference(f"{name}.in_u8", f"{name}.jax_u8{suffix}")
    assert np.abs(resized(picture, height, width).astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.parametrize("name", ["A", "B", "C"])
def test_floats_are_resized_alike_but_not_like_openpis_torch(name: str) -> None:
    """openpi's torch resize does not antialias, which is up to 119 grey levels off: we do not reproduce it."""
    picture, jax, torchs = reference(f"{name}.in_u8", f"{name}.jax_f32_64x96", f"{name}.torch_f32_64x96")
    grey_levels = resized(picture, 64, 96) - (jax + 1) * 127.5
    assert np.abs(grey_levels).max() < 1
    assert np.abs(jax - torchs).max() * 127.5 > 3


@given(st.integers(20, 90), st.integers(20, 90), st.integers(16, 64))
@settings(max_examples=40, deadline=None)
def test_a_box_follows_what_it_shows(height: int, width: int, size: int) -> None:
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    top, left = height // 3, width // 4
    image[:, top : 2 * top, left : 3 * left] = 255
    box = Box("white", top / height, left / width, 2 * top / height, 3 * left / width)
    small, move = resize_with_pad(image, size, size)
    after = move.apply(box)
    assert after is not None
    rows, columns = torch.nonzero(small[0] > 127, as_tuple=True)
    sides = np.array([rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]) / size
    np.testing.assert_allclose([after.y_min, after.x_min, after.y_max, after.x_max], sides, atol=1.0 / size)


def test_a_picture_of_the_right_size_is_untouched() -> None:
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    same, move = resize_with_pad(image, 32, 32)
    assert same is image
    np.testing.assert_array_equal(move.matrix, np.eye(2, 3))


def test_boxes_are_clipped_and_leave() -> None:
    right = BoxTransform(np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]))
    half = right.apply(Box("cup", 0.1, 0.3, 0.2, 0.9))
    assert half is not None
    assert (half.x_min, half.x_max, half.y_min) == pytest.approx((0.8, 1.0, 0.1))
    assert right.apply(Box("cup", 0.1, 0.6, 0.2, 0.9)) is None
    assert right.then(right).apply(Box("cup", 0.1, 0.3, 0.2, 0.4)) is None


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_every_jpeg_becomes_rgb(mode: str) -> None:
    file = io.BytesIO()
    Image.new(mode, (10, 6), color=0 if mode == "L" else (0, 0, 0, 0)[: len(mode)]).save(file, "JPEG")
    image = decode_jpeg(file.getvalue())
    assert (image.shape, image.dtype) == ((3, 6, 10), torch.uint8)
    assert len(image.unique()) == 1


jpeg_settings = st.fixed_dictionaries(
    {"quality": st.integers(20, 100), "subsampling": st.sampled_from([0, 1, 2]), "progressive": st.booleans()},
    optional={"restart_marker_blocks": st.just(2)},
)


@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from(["RGB", "L", "CMYK"]), st.integers(0, 99), jpeg_settings)
@settings(max_examples=150, deadline=None)
def test_pictures_are_pillows_bit_for_bit(
    height: int, width: int, mode: str, seed: int, options: dict[str, int | bool]
) -> None:
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode).save(
        file, "JPEG", **options
    )
    expected = np.asarray(Image.open(io.BytesIO(file.getvalue())).convert("RGB"))
    np.testing.assert_array_equal(decode_jpeg(file.getvalue()).permute(1, 2, 0).numpy(), expected)


def test_a_jpeg_that_is_doubtful_is_what_pillow_makes_of_it() -> None:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "JPEG")
    doubtful = file.getvalue()[:-200] + b"\xff\xd9"
    expected = np.asarray(Image.open(io.BytesIO(doubtful)).convert("RGB"))
    np.testing.assert_array_equal(decode_jpeg(doubtful).permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("cut", [0, 5, 300])
def test_a_broken_jpeg_is_refused(cut: int) -> None:
    file = io.BytesIO()
    Image.effect_noise((32, 32), 50).save(file, "JPEG")
    with pytest.raises(UserError, match=r"sample 7.*JPEG"):
        decode_jpeg(file.getvalue()[:cut], "sample 7")
