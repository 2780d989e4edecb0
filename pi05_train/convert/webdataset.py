"""Ready-made image-text tars (WebDataset): a picture and its caption or question per key, as img2dataset writes them.

Members of a record: a picture (jpg, png, webp), and a text in `txt` or in `json` under one of `CAPTION_FIELDS`, or a
json with `question` and `answer`. Each caption is one sample. `--dataset capsfusion` takes the caption of that name
from the json; `--dataset lbm` reads robot tars (`lbm.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pi05_train.convert import lbm
from pi05_train.convert.source import Dropped, ForeignSource, Options, Unit
from pi05_train.convert.tars import Record, tar_files, tar_records
from pi05_train.convert.web import CAPTION_QUESTION, Picture, Question, picture_samples, picture_split, web_card
from pi05_train.errors import UserError
from pi05_train.samples.card import SourceCard
from pi05_train.samples.schema import Sample

CAPTION_FIELDS = {"": ("caption", "text", "captions", "description"), "capsfusion": ("capsfusion",)}
"""`--dataset` to the json fields that may hold the caption, a string or several; the first with a text is taken.
Without a dataset a `txt` member goes before them."""
PICTURES = ("jpg", "jpeg", "png", "webp")
PICTURES_PER_TAR = 100_000
"""Room for the numbers of a tar's records: number 300007 is the eighth record of the fourth tar."""
_KEPT_FIELDS = ("url", "key", "license", "sha256")
"""What a record's json says about the picture's origin, for the sample's provenance."""


def open_source(path: Path, options: Options) -> ForeignSource:
    """The tar at `path`, or all tars of a folder; robot tars with `dataset` "lbm"."""
    if options.dataset == "lbm":
        return lbm.open_source(path, options)
    if options.dataset not in CAPTION_FIELDS:
        known = ", ".join(repr(name) for name in (*CAPTION_FIELDS, "lbm"))
        raise UserError("conversion, dataset", got=repr(options.dataset), expected=f"one of {known}", do="correct it")
    return ImageTextTars(path, options)


class ImageTextTars:
    """Image-text tars; one unit per tar."""

    def __init__(self, path: Path, options: Options) -> None:
        self._path, self._options = path, options
        self.card: SourceCard = web_card(
            options, description="Pictures with captions.", origin=f"WebDataset tars, {path.name}", licence=""
        )
        self._files = tar_files(path, options)
        if len(self._files) > (most := 2**32 // PICTURES_PER_TAR):  # the index keeps 32 bits of the number
            raise UserError(
                f"tars in {path}", got=len(self._files), expected=f"at most {most}", do="convert it in parts"
            )
        self._names = [file.name if path.is_file() else file.relative_to(path).as_posix() for file in self._files]
        self.units: Sequence[Unit] = [Unit(number, name) for number, name in enumerate(self._names)]
        self.notes: Sequence[str] = ["The tars state no licence for the pictures as a whole."]

    def samples(self, unit: Unit) -> Iterator[Sample | Dropped]:
        """The tar's samples; numbers follow the records, so that a bad one moves no other."""
        name = self._names[unit.number]
        for position, record in enumerate(tar_records(self._files[unit.number], name)):
            if position >= PICTURES_PER_TAR:
                raise UserError(
                    f"tar {name}", got="more records", expected=f"at most {PICTURES_PER_TAR}", do="cut it in two"
                )
            if isinstance(record, Dropped):
                yield record
                continue
            yield from self._described(record, name, unit.number * PICTURES_PER_TAR + position)

    def _described(self, record: Record, tar: str, number: int) -> Iterator[Sample | Dropped]:
        key = f"{number:08d}"
        found = [extension for extension in record.members if extension in PICTURES]
        try:
            facts = _facts(record)
            questions = _questions(record, facts, CAPTION_FIELDS[self._options.dataset], bool(self._options.dataset))
        except _TextError as error:
            yield Dropped(key, str(error))
            return
        if len(found) > 1:
            yield Dropped(key, "several pictures under one key", max(len(questions), 1))
        elif not questions:
            yield Dropped(key, "no caption")
        else:
            provenance = {"tar": tar, "member": record.key}
            provenance |= {field: str(facts[field]) for field in _KEPT_FIELDS if facts.get(field)}
            identity = str(facts.get("url") or f"{tar}/{record.key}.jpg")
            picture = Picture(
                number=number,
                file=record.key,
                split=picture_split(self._options, identity),
                questions=questions,
                provenance=provenance,
            )
            yield from picture_samples(picture, record.members[found[0]] if found else None, self._options)


class _TextError(Exception):
    """A record whose text cannot be used; says why in a phrase to count by."""


def _facts(record: Record) -> dict[str, Any]:
    """The record's json; {} without one."""
    try:
        facts = json.loads(record.members.get("json", b"{}"))
    except (ValueError, RecursionError) as error:
        raise _TextError("json unreadable") from error
    if not isinstance(facts, dict):
        raise _TextError("json unreadable")
    if facts.get("status", "success") != "success":
        raise _TextError("picture missing (its download failed)")
    return facts


def _questions(record: Record, facts: dict[str, Any], fields: tuple[str, ...], only_json: bool) -> list[Question]:
    try:
        text = record.members.get("txt", b"").decode().strip()
    except UnicodeDecodeError as error:
        raise _TextError("txt is not UTF-8") from error
    asked, answer = facts.get("question"), facts.get("answer")
    if not only_json and isinstance(asked, str) and isinstance(answer, str):
        return [Question(asked, answer)]
    captions = (
        [text] if text and not only_json else next((found for name in fields if (found := _texts(facts, name))), [])
    )
    return [Question(CAPTION_QUESTION, caption) for caption in captions]


def _texts(facts: dict[str, Any], field: str) -> list[str]:
    content = facts.get(field)
    texts = content if isinstance(content, list) else [content]
    return [text.strip() for text in texts if isinstance(text, str) and text.strip()]
