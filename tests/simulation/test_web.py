"""Photographs: boxes follow crops and mirrors, and what is said is about what shows."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pi05_train.simulation.pictures import PICTURES
from pi05_train.simulation.settings import SimulationSettings
from pi05_train.simulation.web import PictureJob, picture_jobs, picture_samples

SETTINGS = SimulationSettings(image_size=64)


def orange(picture: np.ndarray) -> np.ndarray:
    pixels = picture.astype(int)
    return (pixels[..., 0] > 180) & (pixels[..., 2] < 140) & (pixels[..., 0] > pixels[..., 2] + 70)


def test_the_flowers_box_follows_crop_and_mirror() -> None:
    samples = [s for s in picture_samples(PictureJob("flower", 40, SETTINGS)) if s.boxes]
    assert {s.provenance["mirrored"] for s in samples} == {"true", "false"}
    for sample in samples:
        (box,) = sample.boxes
        flower = orange(np.asarray(Image.open(io.BytesIO(sample.images["base_0_rgb"]))))
        # The second flower, below, does not count.
        bottom = round(min(box.y_max + 0.01, 1) * 64)
        rows, columns = np.nonzero(flower[:bottom])
        assert abs((box.x_min + box.x_max) / 2 - columns.mean() / 64) < 0.05
        assert abs((box.y_min + box.y_max) / 2 - rows.mean() / 64) < 0.08


@pytest.mark.parametrize("name", list(PICTURES))
def test_every_sample_asks_and_answers_and_boxes_lie_inside(name: str) -> None:
    samples = picture_samples(PictureJob(name, 12, SETTINGS))
    assert len(samples) == 24
    assert len({sample.key for sample in samples}) == 24
    for sample in samples:
        assert sample.question
        assert sample.answer
        assert ("{boxes}" in sample.question + sample.answer) == bool(sample.boxes)
        for box in sample.boxes:
            assert 0 <= box.y_min < box.y_max <= 1
            assert 0 <= box.x_min < box.x_max <= 1
        text = f"{sample.question} {sample.answer}".split()
        assert not {"left", "right"} & set(text), "crops are mirrored"


def test_a_crop_is_held_out_with_all_its_questions() -> None:
    samples = picture_samples(PictureJob("cat", 20, SETTINGS))
    splits: dict[int, set[str]] = {}
    for sample in samples:
        splits.setdefault(sample.episode, set()).add(sample.split)
    assert sum(found == {"heldout"} for found in splits.values()) == 2
    assert sum(found == {"train"} for found in splits.values()) == 18


def test_the_amount_is_spread_over_all_pictures() -> None:
    jobs = picture_jobs(SimulationSettings(web_samples=100))
    assert sum(job.crops for job in jobs) == 50
    assert {job.picture for job in jobs} == set(PICTURES)
