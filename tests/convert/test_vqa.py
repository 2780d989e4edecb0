"""Questions with short answers: the answer most people gave, and whole pictures held out."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from pi05_train.convert import vqa
from pi05_train.convert.source import Options
from pi05_train.errors import UserError
from pi05_train.samples.schema import Sample
from pi05_train.samples.shards import check_sample, parse_sample, sample_members
from tests.convert.found import dropped, everything
from tests.convert.web_pictures import SHARED, red_box_picture, write

REAL = SHARED / "data" / "easy_vqa_test"
OPTIONS = Options("toy_vqa", "WD", image_size=32)
PICTURE = red_box_picture(20, 30, (5, 5, 10, 10))


def vqav2_folder(folder: Path, answers: list[str], *, part: str = "train2014", own: str = "") -> Path:
    """Pictures 1 and 2 with two questions each; the first question has these answers."""
    (folder / part).mkdir(parents=True, exist_ok=True)
    for number in (1, 2):
        (folder / part / f"COCO_{part}_{number:012d}.jpg").write_bytes(PICTURE)
    asked = [
        {"question_id": 10 * i + j, "image_id": i, "question": f"What is {i} {j}?"} for i in (2, 1) for j in (0, 1)
    ]
    given = [
        {"question_id": 10 * i + j, "answers": [{"answer": "a cup", "answer_id": 1}]} for i in (1, 2) for j in (0, 1)
    ]
    given[0] |= {"answers": [{"answer": text} for text in answers], "multiple_choice_answer": own}
    licence = {"name": "CC BY 4.0", "url": "http://licence"}
    questions = {"questions": asked, "data_subtype": part, "license": licence}
    write(folder / f"v2_OpenEnded_mscoco_{part}_questions.json", questions)
    write(folder / f"v2_mscoco_{part}_annotations.json", {"annotations": given, "data_subtype": part})
    return folder


def samples_of(path: Path, options: Options = OPTIONS) -> list[Sample]:
    return [found for found in everything(vqa.open_source(path, options)) if isinstance(found, Sample)]


@pytest.mark.parametrize(
    ("answers", "own", "expected"),
    [
        (["red", "blue", "blue"], "blue", "blue"),
        (["red", "blue"], "blue", "blue"),
        (["red", "blue"], "", "red"),
        (["red", "blue", "blue"], "red", "blue"),
        ([], "green", "green"),
    ],
)
def test_the_most_frequent_answer_is_the_true_one(answers: list[str], own: str, expected: str, tmp_path: Path) -> None:
    samples = samples_of(vqav2_folder(tmp_path, answers, own=own))
    assert [(s.key, s.question, s.answer) for s in samples] == [
        ("00000000_000000", "What is 1 0?", expected),
        ("00000000_000001", "What is 1 1?", "a cup"),
        ("00000001_000000", "What is 2 0?", "a cup"),
        ("00000001_000001", "What is 2 1?", "a cup"),
    ]


def test_samples_fit_their_card_and_shards(tmp_path: Path) -> None:
    source = vqa.open_source(vqav2_folder(tmp_path, ["red"]), OPTIONS)
    for sample in everything(source):
        assert isinstance(sample, Sample)
        check_sample(sample, source.card)
        assert parse_sample(sample_members(sample)) == sample
    assert "CC BY 4.0 http://licence" in source.card.licence
    assert any("COCO-2014" in note for note in source.notes)


def test_all_questions_of_a_picture_are_on_the_same_side_and_validation_is_held_out(tmp_path: Path) -> None:
    vqav2_folder(vqav2_folder(tmp_path, ["red"]), ["red"], part="val2014")
    samples = samples_of(tmp_path, Options("toy_vqa", "WD", image_size=32, heldout=0.0))
    assert [s.split for s in samples] == ["train"] * 4 + ["heldout"] * 4


def test_pictures_that_coco_2017_validates_on_are_held_out(tmp_path: Path) -> None:
    vqav2_folder(tmp_path, ["red"])
    write(tmp_path / "captions_val2017.json", {"images": [{"id": 2}], "annotations": []})
    source = vqa.open_source(tmp_path, Options("toy_vqa", "WD", image_size=32, heldout=0.0))
    assert [s.split for s in everything(source) if isinstance(s, Sample)] == ["train"] * 2 + ["heldout"] * 2
    assert any("2017 validation" in note for note in source.notes)


def test_questions_without_an_answer_are_counted(tmp_path: Path) -> None:
    path = vqav2_folder(tmp_path, [])
    annotations = tmp_path / "v2_mscoco_train2014_annotations.json"
    content = json.loads(annotations.read_text())
    del content["annotations"][3]
    write(annotations, content)
    found = everything(vqa.open_source(path, OPTIONS))
    assert dropped(found) == {"empty answer": 1, "question without annotation": 1}
    annotations.unlink()
    with pytest.raises(UserError, match="no answered questions"):
        vqa.open_source(path, OPTIONS)


def test_missing_and_broken_pictures_are_counted_when_allowed(tmp_path: Path) -> None:
    path = vqav2_folder(tmp_path, ["red"])
    first, second = sorted((path / "train2014").iterdir())
    first.unlink()
    second.write_bytes(PICTURE[:60])
    with pytest.raises(UserError, match=r"1 of 2 pictures absent, such as train2014/COCO_train2014_000000000001.jpg"):
        vqa.open_source(path, OPTIONS)
    found = everything(vqa.open_source(path, Options("toy_vqa", "WD", allow_missing=True)))
    assert dropped(found) == {"picture missing": 2, "picture unreadable": 2}
    assert len(found) == 2


EASY = [["what is red?", "circle", 0], ["is it blue?", "no", 0], ["is it red?", "yes", 1]]


def easy_folder(folder: Path, asked: Any = EASY) -> Path:
    place = folder / "easy" / "test"
    (place / "images").mkdir(parents=True, exist_ok=True)
    for number in (0, 1):
        (place / "images" / f"{number}.png").write_bytes(PICTURE)
    write(place / "questions.json", asked)
    (folder / "LICENSE").write_text("Some Licence\n\nwith conditions")
    return folder


def test_easy_vqa_reads_the_same_from_folder_and_tar(tmp_path: Path) -> None:
    folder = easy_folder(tmp_path / "folder")
    archive = tmp_path / "packed" / "easy.tar"
    archive.parent.mkdir()
    with tarfile.open(archive, "w") as tar:
        tar.add(folder, arcname=".")
    samples = samples_of(folder)
    assert [(s.key, s.question, s.answer) for s in samples] == [
        ("00000000_000000", "what is red?", "circle"),
        ("00000000_000001", "is it blue?", "no"),
        ("00000001_000000", "is it red?", "yes"),
    ]
    assert samples_of(archive) == samples_of(archive.parent) == samples
    assert vqa.open_source(archive, OPTIONS).card.licence == "Some Licence"
    archive.write_bytes(archive.read_bytes()[:2600])
    with pytest.raises(UserError, match=r"easy\.tar"):
        vqa.open_source(archive, OPTIONS)


def test_foreign_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\[0\]: got \['what'\], expected \[question, answer"):
        vqa.open_source(easy_folder(tmp_path, [["what"]]), OPTIONS)
    with pytest.raises(UserError, match="no list 'questions'"):
        vqa.open_source(easy_folder(tmp_path, {"data": 1}), OPTIONS)
    (tmp_path / "easy/test/questions.json").write_text("[[")
    with pytest.raises(UserError, match="a whole JSON file"):
        vqa.open_source(tmp_path, OPTIONS)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is absent")
def test_every_real_question_is_there() -> None:
    source = vqa.open_source(REAL, Options("easy_vqa", "WD", image_size=16, heldout=0.1))
    found = everything(source)
    assert len(found) == 9673
    samples = [sample for sample in found if isinstance(sample, Sample)]
    assert len(samples) == 9673
    assert len({sample.episode for sample in samples}) == 1000
    sides = {(sample.episode, sample.split) for sample in samples}
    assert len(sides) == 1000
    assert 70 < sum(split == "heldout" for _, split in sides) < 130
    assert source.card.licence == "MIT License"
