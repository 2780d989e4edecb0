"""COCO: boxes end up on the right pixels of the stored square, and whatever is bad is counted or refused."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pi05_train.convert import coco, web
from pi05_train.convert.run import convert
from pi05_train.convert.source import Options
from pi05_train.errors import UserError
from pi05_train.processing.images import decode_jpeg, resize_with_pad
from pi05_train.processing.sequence import target_text
from pi05_train.processing.templates import Templates
from pi05_train.samples.schema import Sample
from pi05_train.samples.shards import check_sample, parse_sample, sample_members
from tests.convert.found import dropped, everything
from tests.convert.web_pictures import SHARED, red_box_picture, write

REAL = SHARED / "data" / "coco_mini_ccby"
OPTIONS = Options("toy_coco", "WD", image_size=64)


def coco_folder(folder: Path, *, part: str = "train2017", objects: list[dict[str, Any]] | None = None) -> Path:
    """Two pictures (100 wide, 50 high), two captions each, and on the first a red cup at x 60, y 10, 20 x 30."""
    images = [
        {"id": 7 + i, "file_name": f"{7 + i:012d}.png", "width": 100, "height": 50, "license": 4} for i in range(2)
    ]
    cup = {"id": 1, "image_id": 7, "category_id": 90, "bbox": [60, 10, 20, 30], "iscrowd": 0, "segmentation": [[1, 2]]}
    common = {"info": {"description": "Toy"}, "images": images, "licenses": [{"id": 4, "name": "BY", "url": "u"}]}
    captions = [{"id": i, "image_id": 7 + i % 2, "caption": f"caption {i} "} for i in range(4)]
    categories = [{"id": 90, "name": "cup"}, {"id": 13, "name": "dog"}]
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / part).mkdir(exist_ok=True)
    for image in images:
        (folder / part / image["file_name"]).write_bytes(red_box_picture(50, 100, (60, 10, 20, 30)))
    write(folder / f"annotations/captions_{part}.json", common | {"annotations": captions})
    found = [cup] if objects is None else objects
    write(folder / f"annotations/instances_{part}.json", common | {"annotations": found, "categories": categories})
    return folder


def samples_of(path: Path, options: Options = OPTIONS) -> list[Sample]:
    return [found for found in everything(coco.open_source(path, options)) if isinstance(found, Sample)]


def red_extent(jpeg: bytes) -> tuple[float, float, float, float]:
    """y_min, x_min, y_max, x_max of what is red, as fractions."""
    pixels = np.asarray(Image.open(io.BytesIO(jpeg))).astype(int)
    rows, columns = np.nonzero((pixels[..., 0] > 180) & (pixels[..., 1] < 80))
    height, width = pixels.shape[:2]
    return rows.min() / height, columns.min() / width, (rows.max() + 1) / height, (columns.max() + 1) / width


def test_the_golden_box_is_written_rows_first(tmp_path: Path) -> None:
    (detection, localisation, region) = [s for s in samples_of(coco_folder(tmp_path)) if s.boxes]
    assert (detection.question, detection.answer) == ("Detect and label all objects in the scene.", "{boxes}")
    assert (localisation.question, localisation.answer) == ("localize the cup", "{boxes}")
    assert (region.question, region.answer) == ("Describe this region: {boxes}", "cup")
    (box,) = detection.boxes
    # x 60..80 of 100; y 10..40 of 50, of the middle half of the square.
    assert (box.label, box.x_min, box.x_max, box.y_min, box.y_max) == ("cup", 0.6, 0.8, 0.35, 0.65)
    assert region.boxes[0].label == ""
    assert target_text(detection, Templates(), detection.boxes) == "<loc0358><loc0614><loc0665><loc0818>cup"
    np.testing.assert_allclose(red_extent(detection.images["base_0_rgb"]), (0.35, 0.6, 0.65, 0.8), atol=0.02)


@settings(max_examples=40)
@given(st.integers(20, 90), st.integers(20, 90), st.data())
def test_stored_boxes_cover_the_same_pixels_whatever_the_picture(height: int, width: int, data: st.DataObject) -> None:
    x, y = data.draw(st.integers(0, width - 12)), data.draw(st.integers(0, height - 12))
    w, h = data.draw(st.integers(10, width - x)), data.draw(st.integers(10, height - y))
    asked = web.Question("?", "{boxes}", (web.PixelBox("cup", x, y, w, h),))
    picture = web.Picture(0, "a.png", "train", [asked])
    options = Options("toy", "WD", image_size=224)
    (sample,) = web.picture_samples(picture, red_box_picture(height, width, (x, y, w, h)), options)
    assert isinstance(sample, Sample)
    (box,) = sample.boxes
    seen = red_extent(sample.images["base_0_rgb"])
    np.testing.assert_allclose((box.y_min, box.x_min, box.y_max, box.x_max), seen, atol=0.025)
    image, move = resize_with_pad(decode_jpeg(sample.images["base_0_rgb"]), 224, 224)
    assert move.apply(box) == box
    assert image.shape == (3, 224, 224)


def test_samples_fit_their_card_and_shards(tmp_path: Path) -> None:
    source = coco.open_source(coco_folder(tmp_path), OPTIONS)
    found = everything(source)
    samples = [sample for sample in found if isinstance(sample, Sample)]
    for sample in samples:
        check_sample(sample, source.card)
        assert parse_sample(sample_members(sample)) == sample
        assert sample.provenance == {"picture": f"train2017/{7 + sample.episode:012d}.png", "licence": "BY u"}
    assert len({sample.key for sample in samples}) == len(samples) == 7
    assert [sample.answer for sample in samples][:2] == ["caption 0", "caption 2"]
    assert dropped(found) == {"no object in the picture": 1}
    assert "BY u" in source.card.licence


def test_a_source_crosses_process_borders_unchanged(tmp_path: Path) -> None:
    source = coco.open_source(coco_folder(tmp_path), OPTIONS)
    assert everything(pickle.loads(pickle.dumps(source))) == everything(source)


@pytest.mark.parametrize(
    ("dataset", "questions"), [("captions", 4), ("detection", 1), ("regions, localisation", 2), ("", 7)]
)
def test_the_dataset_option_chooses_the_questions(dataset: str, questions: int, tmp_path: Path) -> None:
    options = Options("toy_coco", "WD", image_size=64, dataset=dataset)
    assert len(samples_of(coco_folder(tmp_path), options)) == questions


def test_validation_pictures_are_held_out_beside_training_ones(tmp_path: Path) -> None:
    coco_folder(coco_folder(tmp_path), part="val2017")
    options = Options("toy_coco", "WD", image_size=64, heldout=0.0)
    splits = {(s.provenance["picture"].split("/")[0], s.split) for s in samples_of(tmp_path, options)}
    assert splits == {("train2017", "train"), ("val2017", "heldout")}


def test_a_photograph_is_on_the_same_side_in_every_source() -> None:
    one, other = Options("coco", "WD", heldout=0.5), Options("vqa", "WD", heldout=0.5)
    names = [(f"{i:012d}.jpg", f"COCO_train2014_{i:012d}.jpg") for i in range(1, 400)]
    sides = [(web.picture_split(one, a), web.picture_split(other, b)) for a, b in names]
    assert all(a == b for a, b in sides)
    assert 150 < sum(a == "heldout" for a, _ in sides) < 250


BAD_BOXES = {
    "box outside the picture": {"bbox": [90, 10, 20, 30]},
    "box of no size": {"bbox": [60, 10, 0, 30]},
    "no box": {"bbox": [60, 10, float("nan"), 30]},
    "box of a crowd": {"bbox": [60, 10, 20, 30], "iscrowd": 1},
    "box without a label": {"bbox": [60, 10, 20, 30], "category_id": 5},
}


@pytest.mark.parametrize(("reason", "change"), BAD_BOXES.items(), ids=BAD_BOXES)
def test_bad_boxes_are_counted_and_their_category_is_not_localised(
    reason: str, change: dict[str, Any], tmp_path: Path
) -> None:
    cup = {"image_id": 7, "category_id": 90, "bbox": [60, 10, 20, 30], "iscrowd": 0}
    dog = cup | {"category_id": 13, "bbox": [0.0, 0.0, 10.5, 50.4]}
    path = coco_folder(tmp_path, objects=[cup, dog, cup | change])
    found = everything(
        coco.open_source(path, Options("toy_coco", "WD", image_size=64, dataset="detection,localisation"))
    )
    assert dropped(found) == {reason: 1, "no object in the picture": 1}
    questions = [(s.question, [b.label for b in s.boxes]) for s in found if isinstance(s, Sample)]
    expected = [("localize the cup", ["cup"])] if reason == "box without a label" else []
    assert questions == [
        ("Detect and label all objects in the scene.", ["cup", "dog"]), *expected, ("localize the dog", ["dog"]),
    ]  # fmt: skip


def test_missing_broken_and_exchanged_pictures_are_counted_when_allowed(tmp_path: Path) -> None:
    path = coco_folder(tmp_path)
    first, second = sorted((path / "train2017").iterdir())
    second.unlink()
    with pytest.raises(UserError, match=r"1 of 2 pictures absent.*--allow-missing"):
        coco.open_source(path, OPTIONS)
    allowed = Options("toy_coco", "WD", image_size=64, allow_missing=True)
    source = coco.open_source(path, allowed)
    assert "1 of 2 pictures absent" in source.notes[0]
    assert dropped(everything(source)) == {"picture missing": 3}
    first.write_bytes(first.read_bytes()[:150])
    assert dropped(everything(source)) == {"picture missing": 3, "picture unreadable": 5}
    first.write_bytes(red_box_picture(50, 60, (0, 0, 5, 5)))
    assert dropped(everything(source))["picture of another size than annotated"] == 5
    first.write_bytes(red_box_picture(25, 50, (30, 5, 10, 15)))  # a copy of half the size
    assert dropped(everything(source)) == {"picture missing": 3}
    first.unlink()
    with pytest.raises(UserError, match="2 of 2 pictures absent"):
        coco.open_source(path, allowed)


def test_what_is_no_coco_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no annotations"):
        coco.open_source(tmp_path, OPTIONS)
    with pytest.raises(UserError, match="a folder or an uncompressed tar"):
        coco.open_source(tmp_path / "nowhere", OPTIONS)
    path = coco_folder(tmp_path)
    with pytest.raises(UserError, match="expected some of captions"):
        coco.open_source(path, Options("toy", "WD", dataset="keypoints"))
    with pytest.raises(UserError, match="'WD' for pictures"):
        coco.open_source(path, Options("toy", "CE"))
    captions = path / "annotations/captions_train2017.json"
    content = json.loads(captions.read_text())
    for change, sentence in {
        "images": ([{"id": 7}], r"images\[0\]: got no 'file_name'"),
        "annotations": ([{"image_id": 99, "caption": "a"}], r"image_id 99"),
        "licenses": ({}, None),
    }.items():
        value, expected = sentence
        write(captions, content | {change: value})
        if expected is None:
            coco.open_source(path, OPTIONS)
        else:
            with pytest.raises(UserError, match=expected):
                coco.open_source(path, OPTIONS)


def test_a_picture_annotated_without_size_is_counted(tmp_path: Path) -> None:
    path = coco_folder(tmp_path)
    for file in (path / "annotations").iterdir():
        content = json.loads(file.read_text())
        content["images"][0]["height"] = 0
        write(file, content)
    assert dropped(everything(coco.open_source(path, OPTIONS)))["annotated picture of no size"] == 2


def test_other_data_sets_in_cocos_form_are_read(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        made = coco_folder(tmp_path / "made", part=part)
        (made / part).rename(tmp_path / part)
        (made / f"annotations/instances_{part}.json").rename(tmp_path / part / "_annotations.coco.json")
        (made / f"annotations/captions_{part}.json").unlink()
    samples = samples_of(tmp_path, Options("toy_coco", "WD", image_size=64, heldout=0.0, dataset="detection"))
    assert [(s.provenance["picture"].split("/")[0], s.split) for s in samples] == [
        ("train", "train"), ("valid", "heldout"),
    ]  # fmt: skip


def test_the_engine_counts_and_writes_the_same_shards_again(tmp_path: Path) -> None:
    path = coco_folder(tmp_path / "coco")
    made = [convert(coco.open_source, path, tmp_path / name, OPTIONS) for name in ("one", "two")]
    assert [(c.samples_in, c.samples, c.dropped) for c in made] == [(8, 7, {"no object in the picture": 1})] * 2
    shards = [(tmp_path / name / "shard-000000.tar").read_bytes() for name in ("one", "two")]
    assert shards[0] == shards[1]


def test_an_empty_caption_is_counted(tmp_path: Path) -> None:
    path = coco_folder(tmp_path)
    captions = path / "annotations/captions_train2017.json"
    content = json.loads(captions.read_text())
    content["annotations"][0]["caption"] = " "
    content["annotations"][1]["caption"] = "a {boxes} of our own"
    write(captions, content)
    found = everything(coco.open_source(path, Options("toy", "WD", image_size=64, dataset="captions")))
    assert dropped(found) == {"empty answer": 1, "text with a placeholder of ours": 1}


@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is absent")
def test_real_photographs_keep_all_their_captions_and_boxes() -> None:
    source = coco.open_source(REAL, Options("coco_mini", "WD", image_size=32))
    found = everything(source)
    samples = [sample for sample in found if isinstance(sample, Sample)]
    assert sum(sample.question == "caption the image" for sample in samples) == 255
    regions = sum(sample.question.startswith("Describe this region") for sample in samples)
    assert regions + dropped(found)["box of a crowd"] == 546
    assert len({sample.episode for sample in samples}) == 51
    for sample in samples:
        check_sample(sample, source.card)
        for box in sample.boxes:
            assert 0 <= box.y_min < box.y_max <= 1
            assert 0 <= box.x_min < box.x_max <= 1
