"""COCO: captions, objects and their boxes (2014, 2017, and any file in COCO's form).

`images` {id, width, height, file_name, license}; `annotations` {image_id, caption} or {image_id, category_id,
bbox [x, y, width, height] in pixels, iscrowd}; `categories` {id, name}. Questions after the paper's figures 1, 3, 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from pi05_train.convert.source import Options
from pi05_train.convert.web import (
    CAPTION_QUESTION,
    Picture,
    PictureSource,
    PixelBox,
    Question,
    box_fault,
    check_missing,
    chosen_variants,
    picture_split,
    web_card,
)
from pi05_train.convert.web_files import Files, open_files, read_json, records
from pi05_train.errors import UserError
from pi05_train.samples.schema import BOXES_FIELD

VARIANTS = ("captions", "detection", "localisation", "regions")
DETECTION_QUESTION = "Detect and label all objects in the scene."
LOCALISATION_QUESTION = "localize the {label}"
REGION_QUESTION = f"Describe this region: {BOXES_FIELD}"
_NUMBER = (int, float)


@dataclass(frozen=True)
class CocoObject:
    """An annotated object, or a crowd of them."""

    label: str
    bbox: Any
    crowd: bool


@dataclass
class CocoImage:
    """A picture of one part ("train2017") with all that is annotated about it."""

    part: str
    number: int
    name: str
    height: int
    width: int
    provenance: dict[str, str]
    file: str = ""
    captions: list[str] = field(default_factory=list)
    objects: list[CocoObject] = field(default_factory=list)
    detected: bool = False
    """Whether an object file lists the picture, so that having no object means something."""


def open_source(path: Path, options: Options) -> PictureSource[tuple[int, CocoImage]]:
    """COCO's folder: `annotations/{captions,instances}_<part>.json` and the pictures in `<part>/`."""
    variants = chosen_variants(options, VARIANTS)
    files = open_files(path)
    images: dict[tuple[str, int], CocoImage] = {}
    described: list[str] = []
    for name in _annotation_files(files):
        content = read_json(files, name, slim=_without_outlines)
        where = f"{path}, {name}"
        if _add(content, _part(name), images, variants, where):
            described.append(_description(content))
    if not images:
        raise UserError(
            f"{path}, {', '.join(variants)}",
            got="no annotations",
            expected="captions_*.json, instances_*.json or *coco*.json",
            do="name COCO's folder, or another dataset",
        )
    ordered = [images[place] for place in sorted(images)]
    for image in ordered:
        image.file = files.find(
            f"{image.part}/{image.name}", f"images/{image.part}/{image.name}", f"images/{image.name}", image.name
        )
    parts = {image.part for image in ordered}
    notes = check_missing([f"{i.part}/{i.name}" for i in ordered if not i.file], len(ordered), files, options)
    if len(parts) > 1:
        notes.append(f"Of the parts {', '.join(sorted(parts))}, val and test are held out whole.")
    licences = sorted({image.provenance["licence"] for image in ordered if "licence" in image.provenance})
    if not licences:
        notes.append("The files name no licence of the pictures.")
    card = web_card(
        options,
        description=f"{'; '.join(dict.fromkeys(filter(None, described))) or 'COCO'} ({', '.join(variants)})",
        origin="pi05 data convert coco",
        licence=f"pictures: {', '.join(licences)} (each sample's provenance)" if licences else "",
    )
    describe = partial(_picture, options=options, variants=variants, only_part=len(parts) == 1)
    return PictureSource(card, notes, files, options, list(enumerate(ordered)), describe)


def _annotation_files(files: Files) -> list[str]:
    """COCO's own caption and object files; in folders of another make any JSON that is not their other files."""
    found = files.named(".json")
    own = [name for name in found if PurePosixPath(name).name.startswith(("captions_", "instances_"))]
    return own or [name for name in found if "coco" in PurePosixPath(name).name.lower()]


def _without_outlines(found: dict[str, Any]) -> dict[str, Any]:
    """Outlines are most of the file and of no use here."""
    found.pop("segmentation", None)
    return found


def _part(name: str) -> str:
    """ "train2017" of "annotations/captions_train2017.json"; the folder of a file with another name."""
    path = PurePosixPath(name)
    return path.stem.partition("_")[2] if path.name.startswith(("captions_", "instances_")) else path.parent.as_posix()


def _description(content: Any) -> str:
    info = content.get("info")
    return str(info.get("description", "")).strip() if isinstance(info, dict) else ""


def _add(
    content: Any, part: str, images: dict[tuple[str, int], CocoImage], variants: Sequence[str], where: str
) -> bool:
    """Add a file's pictures and annotations; False where no chosen variant needs it."""
    annotations = records(content, "annotations", {"image_id": int}, where)
    with_captions = any("caption" in entry for entry in annotations)
    if not (("captions" in variants) if with_captions else any(name != "captions" for name in variants)):
        return False
    listed = records(content, "images", {"id": int, "file_name": str, "height": int, "width": int}, where)
    licences = _licences(content)
    for entry in listed:
        image = images.get((part, entry["id"])) or _image(entry, part, licences)
        images[part, entry["id"]] = image
        image.detected |= not with_captions
    labels = _labels(content, where) if annotations and not with_captions else {}
    for index, entry in enumerate(annotations):
        found = images.get((part, entry["image_id"]))
        if found is None:
            raise UserError(
                f"{where}, annotations[{index}]", got=f"image_id {entry['image_id']}",
                expected="the id of a listed picture", do="correct the file",
            )  # fmt: skip
        if with_captions:
            found.captions.append(str(entry.get("caption") or ""))
        else:
            category = entry.get("category_id")
            label = labels.get(category, "") if isinstance(category, int) else ""
            found.objects.append(CocoObject(label, entry.get("bbox"), bool(entry.get("iscrowd"))))
    return True


def _image(entry: dict[str, Any], part: str, licences: dict[str, str]) -> CocoImage:
    provenance = {"picture": f"{part}/{entry['file_name']}"}
    if licence := licences.get(str(entry.get("license")), ""):
        provenance["licence"] = licence
    if url := entry.get("flickr_url") or entry.get("coco_url"):
        provenance["url"] = str(url)
    return CocoImage(part, entry["id"], entry["file_name"], entry["height"], entry["width"], provenance)


def _licences(content: dict[str, Any]) -> dict[str, str]:
    """Licence number to name; the name's address tells the version."""
    listed = content.get("licenses")
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    return {
        str(entry.get("id")): " ".join(str(entry[part]) for part in ("name", "url") if entry.get(part))
        for entry in entries
    }


def _labels(content: Any, where: str) -> dict[int, str]:
    return {entry["id"]: entry["name"] for entry in records(content, "categories", {"id": int, "name": str}, where)}


def _picture(entry: tuple[int, CocoImage], *, options: Options, variants: Sequence[str], only_part: bool) -> Picture:
    number, image = entry
    questions = [Question(CAPTION_QUESTION, caption) for caption in image.captions] if "captions" in variants else []
    sized = image.height > 0 and image.width > 0
    if image.detected and sized:
        questions += object_questions(image, variants)
    split = picture_split(options, image.name, publishers=image.part, only_part=only_part)
    refusal = "" if sized else "annotated picture of no size"
    return Picture(number, image.file, split, questions, image.height, image.width, image.provenance, refusal)


def object_questions(image: CocoImage, variants: Sequence[str]) -> list[Question]:
    """What is asked about the objects: all of them, those of a category, and what each of them is.

    Largest first. A crowd's box is no object: the category cannot be localised fully there, and is not asked for. A
    bad box is left out and counted, and makes its category's answer incomplete too.
    """
    boxes: list[PixelBox] = []
    refused: list[Question] = []
    incomplete: dict[str, str] = {}
    for thing in image.objects:
        box = _pixel_box(thing)
        reason = "box of a crowd" if thing.crowd else box_fault(box, image.height, image.width) if box else "no box"
        reason = reason or ("" if thing.label.strip() else "box without a label")
        if reason or box is None:
            refused.append(Question("", "", refusal=reason))
            incomplete[thing.label] = reason
        else:
            boxes.append(box)
    boxes.sort(key=lambda box: (-box.width * box.height, box.label, box.y, box.x))
    if not boxes:
        return [*refused, Question("", "", refusal="no object in the picture")]
    found = []
    if "detection" in variants:
        found.append(Question(DETECTION_QUESTION, BOXES_FIELD, tuple(boxes)))
    if "localisation" in variants:
        for label in dict.fromkeys(box.label for box in boxes if box.label not in incomplete):
            those = tuple(box for box in boxes if box.label == label)
            found.append(Question(LOCALISATION_QUESTION.format(label=label), BOXES_FIELD, those))
    if "regions" in variants:
        nameless = [PixelBox("", box.x, box.y, box.width, box.height) for box in boxes]
        found += [Question(REGION_QUESTION, b.label, (n,)) for b, n in zip(boxes, nameless, strict=True)]
    return found + refused


def _pixel_box(thing: CocoObject) -> PixelBox | None:
    """None for what is not four finite numbers."""
    numbers = thing.bbox
    if not isinstance(numbers, list) or len(numbers) != 4:
        return None
    if not all(isinstance(number, _NUMBER) and math.isfinite(number) for number in numbers):
        return None
    return PixelBox(thing.label, *(float(number) for number in numbers))
