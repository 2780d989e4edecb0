"""What formats of pictures with text share: questions, the split, the stored sample.

Positions come in pixels of the picture and are stored as fractions of the square that `pictures.jpeg` makes of it,
borders included. Boxes move with later augmentation (`{boxes}`); points are text, which augmentation respects by
leaving such pictures where they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Generic, TypeVar

from pi05_train.convert.pictures import PictureError, Placement, jpeg, picture_size, placement
from pi05_train.convert.source import Dropped, Options, Unit, split_of
from pi05_train.convert.web_files import Files
from pi05_train.errors import UserError
from pi05_train.samples.card import SourceCard
from pi05_train.samples.schema import BOXES_FIELD, CAMERAS, Box, Sample, Split
from pi05_train.tokenization.boxes import coordinate_bin

POINTS_FIELD = "{points}"
"""Stands in an answer for its points until the picture's place on the square is known."""
CAPTION_QUESTION = "caption the image"
PICTURES_PER_UNIT = 200
BORDER_PIXELS = 1.0
"""Annotations may stick out of the picture by rounding; so much is cut off without a word."""
_COCO_NAME = re.compile(r"(?:COCO_\w+?2014_)?(\d{12})\.jpg")


@dataclass(frozen=True)
class PixelBox:
    """A labelled box in pixels of the annotations' picture; x runs to the right, y down."""

    label: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Question:
    """What is asked about a picture and what is true."""

    question: str
    answer: str
    boxes: tuple[PixelBox, ...] = ()
    points: tuple[tuple[float, float], ...] = ()
    """(x, y) in pixels."""
    refusal: str = ""
    """Why there is nothing to learn here, a reason to count by."""


@dataclass(frozen=True)
class Picture:
    """One picture of a source, with everything that is asked about it."""

    number: int
    """Its place in the source: `Sample.episode`."""
    file: str
    """Its name in the source's files; "" where it is missing."""
    split: Split
    questions: Sequence[Question]
    height: int = 0
    width: int = 0
    """Pixels of the picture that positions refer to; 0: those of the file."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    refusal: str = ""
    """Why the picture cannot be used whatever is asked, a reason to count by."""


def chosen_variants(options: Options, known: Sequence[str]) -> tuple[str, ...]:
    """The variants named in `options.dataset`, separated by commas; all where none is."""
    chosen = tuple(name.strip() for name in options.dataset.split(",") if name.strip()) or tuple(known)
    if unknown := [name for name in chosen if name not in known]:
        raise UserError(
            "conversion, dataset", got=repr(unknown[0]), expected="some of " + ", ".join(known), do="correct it"
        )
    return chosen


def web_card(options: Options, *, description: str, origin: str, licence: str) -> SourceCard:
    """The card of a source of pictures with text; refuses another kind than WD."""
    if options.kind != "WD":
        raise UserError(
            "conversion, kind", got=repr(options.kind), expected="'WD' for pictures with text", do="correct it"
        )
    return SourceCard(
        options.name, "WD", "", description=description, cameras=[CAMERAS[0]], licence=licence, origin=origin
    )


def picture_split(options: Options, name: str, *, publishers: str = "", only_part: bool = True) -> Split:
    """Which side a picture is on, with all that is asked about it.

    `publishers`: the part its publisher put it in ("train2017", "val2014"). A val or test part is held out whole,
    unless it is the `only_part`. Else a hash decides: of COCO's picture number where the file's name shows one, so
    that a photograph is on the same side in every source that uses it; of source and file name otherwise.
    """
    if not only_part and publishers.startswith(("val", "test")):
        return "heldout"
    if number := coco_number(name):
        return split_of(replace(options, name="coco"), number)
    return split_of(options, name)


def coco_number(name: str) -> int:
    """COCO's picture number, of a file named as COCO 2014 or 2017 names its files; 0 for others."""
    match = _COCO_NAME.fullmatch(PurePosixPath(name).name)
    return int(match[1]) if match else 0


def check_missing(missing: Sequence[str], total: int, files: Files, options: Options) -> list[str]:
    """A note about absent pictures; refuses (UserError) them unless the person allows that, and a total loss always."""
    if not missing:
        return []
    got = f"{len(missing)} of {total} pictures absent, such as {missing[0]}"
    if len(missing) == total:
        raise UserError(str(files.path), got=got, expected="pictures", do="put them below this folder")
    if not options.allow_missing:
        raise UserError(
            str(files.path), got=got, expected="all of them", do="fetch them, or allow missing files (--allow-missing)"
        )
    return [f"{got[0].upper()}{got[1:]}: what is asked about them is left out."]


R = TypeVar("R")


@dataclass(frozen=True)
class PictureSource(Generic[R]):
    """Pictures in a stable order, `PICTURES_PER_UNIT` a unit; `describe` makes a record into a `Picture`."""

    card: SourceCard
    notes: Sequence[str]
    files: Files
    options: Options
    entries: Sequence[R]
    describe: Callable[[R], Picture]

    @property
    def units(self) -> Sequence[Unit]:
        starts = range(0, len(self.entries), PICTURES_PER_UNIT)
        return [Unit(i, f"pictures from {start} on") for i, start in enumerate(starts)]

    def samples(self, unit: Unit) -> Iterator[Sample | Dropped]:
        start = unit.number * PICTURES_PER_UNIT
        for entry in self.entries[start : start + PICTURES_PER_UNIT]:
            picture = self.describe(entry)
            content = self.files.read(picture.file) if picture.file and not picture.refusal else None
            yield from picture_samples(picture, content, self.options)


def picture_samples(picture: Picture, content: bytes | None, options: Options) -> Iterator[Sample | Dropped]:
    """One sample per question about the picture, whose file's bytes are `content`; None: there is no such file."""
    whole = f"{picture.number:08d}"
    if picture.refusal or content is None:
        yield Dropped(whole, picture.refusal or "picture missing", len(picture.questions))
        return
    try:
        place, height, width = _placed(picture, content, options)
        image = jpeg(content, options)
    except _OtherPictureError:
        yield Dropped(whole, "picture of another size than annotated", len(picture.questions))
        return
    except PictureError:
        yield Dropped(whole, "picture unreadable", len(picture.questions))
        return
    for frame, asked in enumerate(picture.questions):
        key = f"{picture.number:08d}_{frame:06d}"
        if reason := asked.refusal or _fault(asked, height, width):
            yield Dropped(key, reason)
            continue
        boxes = tuple(place.box(box_fractions(box, height, width)) for box in asked.boxes)
        yield Sample(
            key=key,
            source=options.name,
            kind="WD",
            images={CAMERAS[0]: image},
            question=asked.question.strip(),
            answer=asked.answer.strip().replace(POINTS_FIELD, _points_text(asked, place, height, width)),
            boxes=boxes,
            episode=picture.number,
            frame=frame,
            split=picture.split,
            provenance=dict(picture.provenance),
        )


class _OtherPictureError(Exception):
    """The file's aspect is not the annotations': it is another picture, or a cut one."""


def _placed(picture: Picture, content: bytes, options: Options) -> tuple[Placement, int, int]:
    """Where the file's picture stands, and the height and width its positions are counted in."""
    height, width = picture_size(content)
    place = placement(height, width, options)
    if not picture.height or not picture.width:
        return place, height, width
    # A smaller copy of the picture is as good as the picture: fractions stay, up to a pixel of rounding.
    if abs(picture.height * width - picture.width * height) > max(picture.height, picture.width):
        raise _OtherPictureError
    return place, picture.height, picture.width


def _fault(asked: Question, height: int, width: int) -> str:
    """Why a question cannot be used; "" for none."""
    if not asked.question.strip():
        return "empty question"
    if not asked.answer.strip():
        return "empty answer"
    texts = asked.question + asked.answer
    if (BOXES_FIELD in texts) != bool(asked.boxes) or (POINTS_FIELD in texts) != bool(asked.points):
        return "text with a placeholder of ours"
    if not all(0 <= x <= width and 0 <= y <= height for x, y in asked.points):
        return "point outside the picture"
    return next((reason for box in asked.boxes if (reason := box_fault(box, height, width))), "")


def box_fault(box: PixelBox, height: int, width: int) -> str:
    """Why a box cannot be used on a picture of these pixels; "" for none."""
    if not box.label.strip() and box.label:
        return "box without a label"
    if not (box.width > 0 and box.height > 0):  # NaN is not either
        return "box of no size"
    inside = min(box.x, box.y) >= -BORDER_PIXELS
    inside &= box.x + box.width <= width + BORDER_PIXELS and box.y + box.height <= height + BORDER_PIXELS
    cut = box_fractions(box, height, width)
    return "" if inside and cut.x_min < cut.x_max and cut.y_min < cut.y_max else "box outside the picture"


def box_fractions(box: PixelBox, height: int, width: int) -> Box:
    """The box in fractions of the picture, cut at its edges: rows (y) first, as everywhere in this program."""
    rows, columns = (
        [min(max(edge / length, 0.0), 1.0) for edge in (start, start + extent)]
        for start, extent, length in ((box.y, box.height, height), (box.x, box.width, width))
    )
    return Box(box.label, y_min=rows[0], x_min=columns[0], y_max=rows[1], x_max=columns[1])


def _points_text(asked: Question, place: Placement, height: int, width: int) -> str:
    """A line `<locYYYY><locXXXX>` per point, from top to bottom."""
    placed = sorted(place.point(y / height, x / width) for x, y in asked.points)
    return "\n".join(f"<loc{coordinate_bin(y):04d}><loc{coordinate_bin(x):04d}>" for y, x in placed)
