"""Augmentation: decided by its key, boxes move along, wrists keep their geometry, many at once are as one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.errors import UserError
from pi05_train.processing.augmentation import UNCHANGED, augmented, crop_map, draw_change, resample
from pi05_train.processing.augmentation_config import AugmentationConfig
from pi05_train.samples.schema import Box
from tests.golden_numbers import golden
from tests.processing.augmented_pictures import augment, augment_one, batch_of, draw_one

CONFIG = AugmentationConfig()
GEOMETRY_ONLY = replace(CONFIG, colour_probability=0.0)
COLOUR_ONLY = replace(CONFIG, crop_fraction=1.0, rotate_degrees=0.0, colour_probability=1.0)
BASE, WRIST = "base_0_rgb", "left_wrist_0_rgb"
keys = st.tuples(st.integers(0, 2**63), st.integers(0, 1000), st.integers(0, 2**40))


def picture(size: int = 64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(3).integers(0, 256, (3, size, size), dtype=np.uint8))


@given(keys)
@settings(max_examples=20, deadline=None)
def test_the_key_alone_decides(key: tuple[int, ...]) -> None:
    image = picture()
    before = image.clone()
    torch.manual_seed(key[1])
    np.random.seed(key[1])
    first, move = augment(image, BASE, key, CONFIG)
    torch.manual_seed(0)
    second, again = augment(image, BASE, key, CONFIG)
    assert torch.equal(first, second)
    np.testing.assert_array_equal(move.matrix, again.matrix)
    assert torch.equal(image, before)
    other, _ = augment(image, BASE, (key[0], key[1], key[2] + 1), CONFIG)
    assert not torch.equal(first, other)
    assert (first.shape, first.dtype) == (image.shape, torch.uint8)


def test_cameras_have_their_own_draws() -> None:
    config = replace(CONFIG, geometric_on_wrists=True)
    assert not torch.equal(augment(picture(), BASE, (1, 2), config)[0], augment(picture(), WRIST, (1, 2), config)[0])


@given(keys, st.floats(0.25, 0.6), st.floats(0.25, 0.6))
@settings(max_examples=40, deadline=None)
def test_boxes_move_with_the_picture(key: tuple[int, ...], y: float, x: float) -> None:
    size = 128
    top, left, side = int(y * size), int(x * size), 20
    image = torch.zeros(3, size, size, dtype=torch.uint8)
    image[:, top : top + side, left : left + side] = 255
    changed, move = augment(image, BASE, key, GEOMETRY_ONLY)
    box = move.apply(Box("white", top / size, left / size, (top + side) / size, (left + side) / size))
    assert box is not None
    rows, columns = torch.nonzero(changed[0] > 20, as_tuple=True)
    seen = np.array([rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]) / size
    np.testing.assert_allclose([box.y_min, box.x_min, box.y_max, box.x_max], seen, atol=1.6 / size)


@given(keys)
@settings(max_examples=20, deadline=None)
def test_what_lies_outside_the_picture_is_black(key: tuple[int, ...]) -> None:
    image = torch.full((3, 48, 48), 200, dtype=torch.uint8)
    strong = replace(GEOMETRY_ONLY, rotate_degrees=45.0)
    changed, move = augment(image, BASE, key, strong)
    old = np.linalg.inv(np.vstack([move.matrix, [0, 0, 1]]))[:2]
    y, x = (np.mgrid[0:48, 0:48] + 0.5) / 48
    read = old @ np.stack([x.ravel(), y.ravel(), np.ones(48 * 48)])
    distance = np.abs(read - 0.5).max(0).reshape(48, 48) - 0.5
    assert (changed[0].numpy()[distance > 1 / 48] == 0).all()
    assert (changed[0].numpy()[distance < -1 / 48] == 200).all()


def test_crop_enlarging_and_rotation_are_one_resample_of_augmax() -> None:
    """Computed by augmax 0.4.1, as openpi calls it, for the crop centres (pixels from the middle) and angles stored."""
    expected = golden("augmentation")
    size, crop = expected["out"].shape[1], int(expected["crop"])
    assert crop == int(0.95 * size)
    seed = int(expected["picture_seed"])
    image = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    pixels = torch.from_numpy(image).permute(2, 0, 1).float()
    for (y, x, angle), out in zip(expected["centre_y_centre_x_radians"], expected["out"], strict=True):
        where = crop_map(crop / size, np.array([x, y]) / size + 0.5, angle)
        got = resample(pixels[None], where[None])[0].permute(1, 2, 0)
        np.testing.assert_allclose(got.numpy(), out, atol=0.02)


@pytest.mark.parametrize(("size", "crop"), [(224, 212), (56, 53), (64, 60)])
def test_the_crop_has_openpis_whole_number_of_pixels_and_stays_inside(size: int, crop: int) -> None:
    straight = replace(CONFIG, rotate_degrees=0.0)
    starts = []
    for key in range(200):
        where = draw_change(BASE, (key,), straight, size).crop
        np.testing.assert_allclose(where[:, :2] * size, np.eye(2) * crop, atol=1e-9)
        starts.append(where[:, 2] * size)
    assert np.min(starts) >= 0
    assert np.max(starts) <= size - crop
    assert np.ptp(starts) > 0.9 * (size - crop)


@given(keys)
@settings(max_examples=20, deadline=None)
def test_wrists_keep_their_geometry_unless_asked(key: tuple[int, ...]) -> None:
    same, move = augment(picture(), WRIST, key, GEOMETRY_ONLY)
    assert torch.equal(same, picture())
    np.testing.assert_array_equal(move.matrix, np.eye(2, 3))
    moved, _ = augment(picture(), WRIST, key, replace(GEOMETRY_ONLY, geometric_on_wrists=True))
    assert not torch.equal(moved, picture())


def test_no_strength_no_change() -> None:
    still = replace(COLOUR_ONLY, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
    changed, _ = augment(picture(), BASE, (5,), still)
    assert (changed.int() - picture().int()).abs().max() <= 1


def test_colours_change_for_about_the_configured_share_of_pictures() -> None:
    config = replace(COLOUR_ONLY, colour_probability=0.5)
    changed = [not torch.equal(augment(picture(16), WRIST, (i,), config)[0], picture(16)) for i in range(200)]
    assert 70 < sum(changed) < 130


@pytest.mark.parametrize(
    ("only", "keeps"),
    [
        ({"saturation": 0.5}, "luminance"),
        ({"hue": 0.1}, "luminance"),
        ({"contrast": 0.4}, "mean luminance"),
        ({"brightness": 0.3}, "ratios"),
    ],
)
def test_each_colour_change_does_what_its_name_says(only: dict[str, float], keeps: str) -> None:
    strengths = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0} | only
    config = replace(COLOUR_ONLY, **strengths)
    image = (torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1)) * 60 + 90).to(torch.uint8)
    luma = torch.tensor([0.299, 0.587, 0.114])
    factors = []
    for key in range(12):
        changed, _ = augment(image, BASE, (key,), config)
        grey, old = (torch.einsum("c,chw->hw", luma, x.float()) for x in (changed, image))
        if keeps == "luminance":
            assert (grey - old).abs().max() < 1.5
        elif keeps == "mean luminance":
            assert (grey.mean() - old.mean()).abs() < 0.5
        else:
            factors.append(float((changed.float() / image.float()).mean()))
            assert (changed.float() / image.float()).std() < 0.01
        assert not torch.equal(changed, image)
    assert all(0.69 < factor < 1.31 for factor in factors)


@given(keys, st.sampled_from([BASE, WRIST]), st.booleans())
@settings(max_examples=50, deadline=None)
def test_the_draws_are_numpys_uniforms_one_after_another(key: tuple[int, ...], camera: str, wrists: bool) -> None:
    config = replace(CONFIG, geometric_on_wrists=wrists)
    ours, theirs = draw_change(camera, key, config, 224), draw_one(camera, key, config, 224)
    np.testing.assert_array_equal(ours.crop, theirs.crop)
    np.testing.assert_array_equal(ours.colours, theirs.colours)


@given(st.lists(st.tuples(keys, st.sampled_from([BASE, WRIST]), st.booleans()), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_many_pictures_at_once_are_the_pictures_one_by_one(
    drawn: list[tuple[tuple[int, ...], str, bool]],
) -> None:
    images = [picture(40).roll(i, dims=1) for i in range(len(drawn))]
    changes = [draw_change(camera, key, CONFIG, 40) if changes else UNCHANGED for key, camera, changes in drawn]
    together = augmented(batch_of(images, changes)).images_ICHW
    for image, change, got in zip(images, changes, together, strict=True):
        difference = (got.int() - augment_one(image, change).int()).abs()
        assert difference.max() <= 1
        assert (difference > 0).float().mean() <= 1e-3
        assert torch.equal(got, augmented(batch_of([image], [change])).images_ICHW[0])


def test_more_pictures_than_are_floats_at_once_change_alike() -> None:
    change = draw_change(BASE, (2,), replace(CONFIG, colour_probability=1.0), 16)
    images = augmented(batch_of([picture(16)] * 70, [change] * 70)).images_ICHW
    assert torch.equal(images, images[:1].expand_as(images))
    assert not torch.equal(images[0], picture(16))


def test_a_changed_batch_has_nothing_left_to_do_and_leaves_the_first_as_it_was() -> None:
    batch = batch_of([picture(16)] * 2, [draw_change(BASE, (1,), CONFIG, 16), UNCHANGED])
    changed = augmented(batch)
    assert changed.changes is None
    assert augmented(changed) is changed
    assert torch.equal(batch.images_ICHW[0], picture(16))
    assert torch.equal(changed.images_ICHW[1], picture(16))


def test_a_picture_that_stays_in_place_is_not_resampled(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("resampled")

    monkeypatch.setattr("pi05_train.processing.augmentation.resample", refuse)
    in_place = replace(COLOUR_ONLY, hue=0.0)
    changed, _ = augment(picture(16), BASE, (1,), in_place)
    assert not torch.equal(changed, picture(16))
    with pytest.raises(AssertionError, match="resampled"):
        augment(picture(16), BASE, (1,), CONFIG)


@pytest.mark.parametrize("wrong", [{"crop_fraction": 0.0}, {"hue": 0.7}, {"colour_probability": 1.5}])
def test_impossible_strengths_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"augmentation.{next(iter(wrong))}"):
        replace(CONFIG, **wrong)
