"""Web-like samples: square crops of real photographs with a question and a true answer each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pi05_train.samples.schema import Box, Sample
from pi05_train.simulation.packages import folder_of
from pi05_train.simulation.pictures import CAPTION_WAYS, DETECT_WAYS, PICTURES, REGION_WAYS, Object, Picture
from pi05_train.simulation.plans import HELDOUT_SHARE, share_of
from pi05_train.simulation.rendering import jpeg
from pi05_train.simulation.settings import SimulationSettings

QUESTIONS_PER_CROP = 2
EPISODES_PER_PICTURE = 100_000
"""Crops of picture p are episodes from p times this upwards."""
WHOLE = 0.75
"""Share of an object's box that must be inside the crop for the object to count as shown."""
Window = tuple[float, float, float]
"""Top, left and side of a square crop, in pixels."""


@dataclass(frozen=True)
class PictureJob:
    """Some crops of one photograph."""

    picture: str
    crops: int
    settings: SimulationSettings


@dataclass(frozen=True)
class Question:
    """What is asked and what is true; {boxes} in either stands for the boxes."""

    question: str
    answer: str
    boxes: tuple[Box, ...] = ()


def picture_jobs(settings: SimulationSettings) -> list[PictureJob]:
    """The crops spread over the photographs; together at least `settings.web_samples` questions."""
    crops = -(-settings.web_samples // QUESTIONS_PER_CROP)
    shares = [len(range(index, crops, len(PICTURES))) for index in range(len(PICTURES))]
    return [PictureJob(name, share, settings) for name, share in zip(PICTURES, shares, strict=True) if share]


def picture_samples(job: PictureJob) -> list[Sample]:
    """`QUESTIONS_PER_CROP` samples of each crop; about a tenth of the crops are held out, questions and all."""
    picture, number = PICTURES[job.picture], list(PICTURES).index(job.picture)
    with Image.open(folder_of(picture.package) / picture.file) as file:
        pixels = file.convert("RGB")
    split_rng = np.random.default_rng([job.settings.seed, number])
    heldout = share_of(job.crops, HELDOUT_SHARE, split_rng)
    found = []
    for crop in range(job.crops):
        rng = np.random.default_rng([job.settings.seed, number, crop])
        window, mirrored = _window(picture, pixels.width, pixels.height, rng), bool(rng.integers(2))
        boxes = {thing.label: _seen(thing, window, mirrored, pixels) for thing in picture.objects}
        image = jpeg(_cut(pixels, window, mirrored, job.settings.image_size))
        questions = _questions(picture, boxes, rng)
        for frame, index in enumerate(rng.permutation(len(questions))[:QUESTIONS_PER_CROP]):
            asked = questions[index]
            episode = number * EPISODES_PER_PICTURE + crop
            found.append(
                Sample(
                    key=f"{episode:08d}_{frame:06d}",
                    source="sim_web",
                    kind="WD",
                    images={"base_0_rgb": image},
                    question=asked.question,
                    answer=asked.answer,
                    boxes=asked.boxes,
                    episode=episode,
                    frame=frame,
                    split="heldout" if crop in heldout else "train",
                    provenance={
                        "picture": f"{picture.package}/{picture.file}",
                        "licence": picture.licence,
                        "crop_seed": f"{job.settings.seed} {number} {crop}",
                        "crop_top_left_side": " ".join(f"{value:.1f}" for value in window),
                        "mirrored": str(mirrored).lower(),
                    },
                )
            )
    return found


def _window(picture: Picture, width: int, height: int, rng: np.random.Generator) -> Window:
    """A random square that shows the picture's first object, as far as the object fits into a square at all."""
    y_min, x_min, y_max, x_max = picture.objects[0].box
    short = min(width, height)
    side = float(rng.uniform(0.75, 1.0)) * short
    middle_y, middle_x = (y_min + y_max) / 2 * height, (x_min + x_max) / 2 * width
    top = np.clip(middle_y - side / 2 + rng.uniform(-0.15, 0.15) * side, 0, height - side)
    left = np.clip(middle_x - side / 2 + rng.uniform(-0.2, 0.2) * side, 0, width - side)
    return float(top), float(left), side


def _cut(pixels: Image.Image, window: Window, mirrored: bool, size: int) -> NDArray[np.uint8]:
    top, left, side = window
    cut = pixels.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    picture = np.asarray(cut)
    return np.ascontiguousarray(picture[:, ::-1] if mirrored else picture)


def _seen(thing: Object, window: Window, mirrored: bool, pixels: Image.Image) -> Box | None:
    """The object's box in the crop, or None when too much of the object is outside."""
    top, left, side = window
    y_min, x_min, y_max, x_max = thing.box
    whole = np.array([y_min * pixels.height - top, x_min * pixels.width - left]) / side
    whole = np.append(whole, np.array([y_max * pixels.height - top, x_max * pixels.width - left]) / side)
    inside = np.clip(whole, 0, 1)
    area, shown = (float((b[2] - b[0]) * (b[3] - b[1])) for b in (whole, inside))
    if shown < WHOLE * area:
        return None
    if mirrored:
        inside[[1, 3]] = 1 - inside[[3, 1]]
    return Box(thing.label, float(inside[0]), float(inside[1]), float(inside[2]), float(inside[3]))


def _questions(picture: Picture, boxes: dict[str, Box | None], rng: np.random.Generator) -> list[Question]:
    """One wording of everything that can truly be asked about the crop."""
    # A main object wider than the crop is always cut: its caption and facts hold all the same.
    main = picture.objects[0]
    found = [Question(str(rng.choice(CAPTION_WAYS)), str(rng.choice(picture.captions)))]
    for thing in picture.objects:
        box = boxes[thing.label]
        if box is not None or thing is main:
            found += [Question(str(rng.choice(ways)), answer) for ways, answer in thing.facts]
        if box is not None:
            found.append(Question(str(rng.choice(DETECT_WAYS)).format(label=thing.label), "{boxes}", (box,)))
            nameless = Box("", box.y_min, box.x_min, box.y_max, box.x_max)
            found.append(Question(str(rng.choice(REGION_WAYS)), thing.label, (nameless,)))
    return found
