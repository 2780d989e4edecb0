"""Conversations about pictures, as LLaVA and Cambrian publish them: JSON or JSON lines.

Entries {id, image: "coco/train2017/000000033471.jpg", conversations: [{from: "human", value: "<image>\\nWhat ...?"},
{from: "gpt", value: "..."}, ...]}. Every question with its answer is a sample; earlier turns are not repeated in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pi05_train.convert.source import Options
from pi05_train.convert.web import Picture, PictureSource, Question, check_missing, picture_split, web_card
from pi05_train.convert.web_files import Files, open_files, read_json
from pi05_train.errors import UserError

IMAGE_MARK = "<image>"
ASKING, ANSWERING = ("human", "user"), ("gpt", "assistant")
_POSITIONS = re.compile(r"\[\s*[01]?\.\d+\s*(?:,\s*[01]?\.\d+\s*){1,3}\]")
"""[0.41, 0.35, 0.6, 0.7]: they would stay when borders and augmentation move the picture, and nothing says of which
square they are fractions."""


@dataclass(frozen=True)
class Conversation:
    """The questions of one entry, and the picture they are about."""

    name: str
    """Of its entry in the file."""
    image: str
    file: str
    """The picture's name in the source's files; "" where it is missing."""
    questions: Sequence[Question]
    refusal: str = ""


def open_source(path: Path, options: Options) -> PictureSource[tuple[int, Conversation]]:
    """A JSON file, or a folder with some; pictures are named relative to it, to its `images` or its `data`.

    `options.dataset` names the files to take, separated by commas; "" takes all that hold conversations.
    """
    files = open_files(path if path.is_dir() or path.suffix == ".tar" else path.parent)
    wanted = [name.strip() for name in options.dataset.split(",") if name.strip()]
    names = [path.name] if path.is_file() and path.suffix != ".tar" else [*files.named(".json"), *files.named(".jsonl")]
    if unknown := [name for name in wanted if name not in names]:
        raise UserError(
            "conversion, dataset", got=repr(unknown[0]), expected=f"some of {', '.join(names)}", do="correct it"
        )
    found: list[Conversation] = []
    for name in wanted or names:
        entries = _entries(files, name, required=bool(wanted) or len(names) == 1)
        found += [_conversation(entry, f"{name}[{index}]", files) for index, entry in enumerate(entries)]
    if not found:
        raise UserError(
            str(path), got="no conversations", expected="a JSON list of entries with 'conversations'", do="name another"
        )
    images = {entry.image: entry.file for entry in found if entry.image and not entry.refusal}
    notes = check_missing(sorted(image for image, file in images.items() if not file), len(images), files, options)
    if later := sum(max(len(entry.questions) - 1, 0) for entry in found):
        notes.append(f"{later} questions follow an earlier one of their conversation and are asked without it.")
    notes.append("Conversations name no licence: look it up for each of the pictures' sources.")
    card = web_card(
        options, description="conversations about pictures", origin="pi05 data convert conversations", licence=""
    )
    return PictureSource(card, notes, files, options, list(enumerate(found)), partial(_picture, options=options))


def _entries(files: Files, name: str, *, required: bool) -> list[Any]:
    """A file's entries; [] where it is not required and holds something else."""
    content = _lines(files, name) if name.endswith(".jsonl") else read_json(files, name)
    if isinstance(content, list) and any(isinstance(entry, dict) and "conversations" in entry for entry in content):
        return content
    if required:
        raise UserError(
            f"{files.path}, {name}", got="no conversations", do="name another file",
            expected="a JSON list of entries with 'conversations'",
        )  # fmt: skip
    return []


def _lines(files: Files, name: str) -> list[Any]:
    found = []
    for number, line in enumerate(files.read(name).splitlines(), 1):
        try:
            found += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            raise UserError(
                f"{files.path}, {name}, line {number}", got=error, expected="valid JSON", do="fetch it again"
            ) from error
    return found


def _conversation(entry: Any, name: str, files: Files) -> Conversation:
    turns = entry.get("conversations") if isinstance(entry, dict) else None
    images = entry.get("image") if isinstance(entry, dict) else None
    listed = [images] if isinstance(images, str) else images if isinstance(images, list) else []
    image = str(listed[0]) if listed else ""
    refusal = "no picture" if not listed else "several pictures" if len(listed) > 1 else ""
    file = files.find(image, f"images/{image}", f"data/{image}") if image else ""
    return Conversation(name, image, file, questions_of(turns), refusal)


def questions_of(turns: Any) -> list[Question]:
    """The questions of a conversation, each with the answer right after it; the rest as refusals."""
    spoken = [_turn(turn) for turn in turns] if isinstance(turns, list) else []
    if spoken and spoken[0] is not None and spoken[0][0] == "system":
        spoken = spoken[1:]
    found: list[Question] = []
    for start in range(0, len(spoken), 2):
        match spoken[start : start + 2]:
            case [(asking, question), (answering, answer)] if asking in ASKING and answering in ANSWERING:
                refusal = "positions as numbers" if _POSITIONS.search(f"{question} {answer}") else ""
                found.append(Question(question.replace(IMAGE_MARK, " ").strip(), answer, refusal=refusal))
            case _:
                # What comes later cannot be told apart any more: it is one loss.
                return [*found, Question("", "", refusal="turns do not alternate")]
    return found or [Question("", "", refusal="no turns")]


def _turn(turn: Any) -> tuple[str, str] | None:
    """Who says what."""
    if not isinstance(turn, dict):
        return None
    who, text = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
    return (who, text) if isinstance(who, str) and isinstance(text, str) else None


def _picture(entry: tuple[int, Conversation], *, options: Options) -> Picture:
    number, talk = entry
    split = picture_split(options, talk.image)
    provenance = {"picture": talk.image, "entry": talk.name}
    return Picture(number, talk.file, split, talk.questions, provenance=provenance, refusal=talk.refusal)
