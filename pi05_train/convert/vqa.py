"""Questions with short answers: VQAv2 (COCO-2014 pictures) and easy-VQA (drawn shapes).

VQAv2: `*questions.json` {questions: [{question_id, image_id, question}], data_subtype} and `*annotations.json`
{annotations: [{question_id, answers: [{answer}] * 10, multiple_choice_answer}], data_subtype}; the most frequent answer
is the true one. easy-VQA: `questions.json` [[question, answer, picture number]] beside `images/<number>.png`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from pi05_train.convert.source import Options
from pi05_train.convert.web import (
    Picture,
    PictureSource,
    Question,
    check_missing,
    chosen_variants,
    coco_number,
    picture_split,
    web_card,
)
from pi05_train.convert.web_files import Files, open_files, read_json, records
from pi05_train.errors import UserError

VARIANTS = ("vqav2", "easy_vqa")
LEAK_NOTE = (
    "VQAv2 asks about COCO-2014 pictures: COCO-2017's training part holds most of VQAv2's validation pictures, so "
    "these are unseen questions but not unseen pictures to whoever trains on both."
)
_TALLY = "tally"


@dataclass
class AskedImage:
    """A picture of one part ("train2014") with its questions and answers."""

    part: str
    number: int
    names: tuple[str, ...]
    """Where its file may be, the likeliest first."""
    file: str = ""
    questions: list[Question] = field(default_factory=list)


Images = dict[tuple[str, int], AskedImage]


def open_source(path: Path, options: Options) -> PictureSource[tuple[int, AskedImage]]:
    """A folder or tar with question files and pictures; what lies there tells which of the two data sets it is."""
    variants = chosen_variants(options, VARIANTS)
    files = open_files(path)
    images: Images = {}
    notes: list[str] = []
    licences: list[str] = []
    for name in files.named("questions.json"):
        content = read_json(files, name)
        if isinstance(content, list) and "easy_vqa" in variants:
            _add_easy(content, PurePosixPath(name), images, f"{path}, {name}")
            licences += _licence_file(files)
        elif isinstance(content, dict) and "vqav2" in variants:
            notes += _add_vqav2(content, name, files, images)
            licences += _licence_field(content)
    if not images:
        raise UserError(
            str(path), got="no answered questions", do="check what was fetched",
            expected="VQAv2's *questions.json and *annotations.json, or easy-VQA's questions.json",
        )  # fmt: skip
    ordered = [images[place] for place in sorted(images)]
    for image in ordered:
        image.file = files.find(*image.names)
    notes += check_missing([image.names[0] for image in ordered if not image.file], len(ordered), files, options)
    parts = sorted({image.part for image in ordered})
    if len(parts) > 1:
        notes.append(f"Of the parts {', '.join(parts)}, val and test are held out whole.")
    validation = _validation_numbers(files)
    if validation:
        notes.append(f"The {len(validation)} pictures that COCO's 2017 validation file lists are held out.")
    card = web_card(
        options,
        description=f"questions with short answers about pictures ({', '.join(parts)})",
        origin="pi05 data convert vqa",
        licence="; ".join(dict.fromkeys(licences)),
    )
    if not licences:
        notes.append("The files name no licence.")
    describe = partial(_picture, options=options, only_part=len(parts) == 1, validation=validation)
    return PictureSource(card, notes, files, options, list(enumerate(ordered)), describe)


def _picture(
    entry: tuple[int, AskedImage], *, options: Options, only_part: bool, validation: frozenset[int]
) -> Picture:
    number, image = entry
    split = picture_split(options, image.names[0], publishers=image.part, only_part=only_part)
    if coco_number(image.names[0]) in validation:
        split = "heldout"
    return Picture(number, image.file, split, image.questions, provenance={"picture": image.file})


def _add_vqav2(content: dict[str, Any], name: str, files: Files, images: Images) -> list[str]:
    """Add the pictures of a question file; notes."""
    where = f"{files.path}, {name}"
    questions = records(content, "questions", {"question_id": int, "image_id": int, "question": str}, where)
    part = str(content.get("data_subtype") or PurePosixPath(name).parent.name)
    answers = _answers(files, part)
    if answers is None:
        return [f"{name} is left out: no annotation file answers its {len(questions)} questions."]
    for entry in sorted(questions, key=lambda entry: int(entry["question_id"])):
        number, answer = entry["image_id"], answers.get(entry["question_id"])
        refusal = "question without annotation" if answer is None else ""
        if (part, number) not in images:
            images[part, number] = AskedImage(part, number, _coco_names(part, number))
        images[part, number].questions.append(Question(entry["question"], answer or "", refusal=refusal))
    return [LEAK_NOTE]


def _answers(files: Files, part: str) -> dict[int, str] | None:
    """Question number to answer, of the part's annotation file; None where there is none."""
    for name in files.named("annotations.json"):
        if part not in PurePosixPath(name).name:
            continue
        content = read_json(files, name, slim=with_tally)
        found = records(content, "annotations", {"question_id": int}, f"{files.path}, {name}")
        return {entry["question_id"]: str(entry.get(_TALLY) or "") for entry in found}
    return None


def with_tally(found: dict[str, Any]) -> dict[str, Any]:
    """An annotation with its ten answers counted and left out.

    The most frequent one; among equals the publisher's own choice, else the first given.
    """
    given = found.pop("answers", None)
    texts = [str(entry["answer"]) for entry in given or () if isinstance(entry, dict) and entry.get("answer")]
    own = str(found.get("multiple_choice_answer") or "")
    if texts or own:
        counts = Counter(texts)
        best = [text for text, count in counts.items() if count == max(counts.values())]
        found[_TALLY] = own if own in best or not best else best[0]
    return found


def _coco_names(part: str, number: int) -> tuple[str, ...]:
    named = (f"COCO_{part}_{number:012d}.jpg", f"{number:012d}.jpg")
    return tuple(f"{folder}{name}" for name in named for folder in (f"{part}/", f"images/{part}/", "images/", ""))


def _validation_numbers(files: Files) -> frozenset[int]:
    """COCO numbers of the 2017 validation pictures, where one of COCO's own files lies beside the questions."""
    found = [name for name in files.named("_val2017.json") if "captions_" in name or "instances_" in name]
    if not found:
        return frozenset()
    listed = records(read_json(files, found[0]), "images", {"id": int}, f"{files.path}, {found[0]}")
    return frozenset(entry["id"] for entry in listed)


def _licence_field(content: Mapping[str, Any]) -> list[str]:
    licence = content.get("license")
    if not isinstance(licence, dict):
        return []
    stated = " ".join(str(licence[key]) for key in ("name", "url") if licence.get(key))
    return [f"questions: {stated}; pictures: as COCO states for each"]


def _add_easy(content: list[Any], name: PurePosixPath, images: Images, where: str) -> None:
    part = name.parent.name or "all"
    for index, entry in enumerate(content):
        match entry:
            case [str(question), str(answer), int(number)]:
                names = (str(name.parent / "images" / f"{number}.png"),)
                image = images.setdefault((part, number), AskedImage(part, number, names))
                image.questions.append(Question(question, answer))
            case _:
                raise UserError(
                    f"{where}, [{index}]", got=entry, expected="[question, answer, picture number]", do="correct it"
                )


def _licence_file(files: Files) -> list[str]:
    """The first line of a file LICENSE."""
    if name := files.find("LICENSE", "LICENSE.txt"):
        return [files.read(name).decode(errors="replace").strip().partition("\n")[0].strip()]
    return []
