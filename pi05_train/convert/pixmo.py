"""PixMo: dense captions, points and counts on pictures that are published as links.

Parquet rows: cap {image_url, caption, transcripts}; points {image_url, image_sha256, points [{x, y}], count, label,
collection_method}. The pictures lie in `images/` (or `pixmo_images/`) under the SHA-256 of their bytes or of their
link, as the publisher's own downloader stores them, with or without an ending. Links die: a picture that is not there
is counted and no reason to refuse. Points are per cent of the picture where `collection_method` stands beside them
(PixMo-Points) and pixels elsewhere (PixMo-Count); allenai/molmo, olmo/data/pixmo_datasets.py.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pyarrow
import pyarrow.parquet

from pi05_train.convert.pictures import PictureError, picture_size
from pi05_train.convert.source import Dropped, Options, Unit
from pi05_train.convert.web import (
    POINTS_FIELD,
    Picture,
    Question,
    chosen_variants,
    picture_samples,
    picture_split,
    web_card,
)
from pi05_train.errors import UserError
from pi05_train.samples.card import SourceCard
from pi05_train.samples.schema import Sample

VARIANTS = ("cap", "points", "counts")
COLUMNS = ("image_url", "image_sha256", "caption", "points", "count", "label", "collection_method")
CAP_QUESTION = "Describe the image in detail."
POINT_QUESTION = "Point to the {label}."
COUNT_QUESTION = "How many {label} are in the image?"
NOTHING_THERE = "There are none."
MOST_POINTS = 100
"""An answer with more points is longer than anything else in the mixture."""
OVERSHOOT = 0.01
"""Clicks may fall beside the picture by this share of its side; they are moved to its edge."""
ROWS_PER_UNIT = 2000
"""A row group is read once for each of its units."""
_FOLDERS = ("images", "pixmo_images")
_ENDINGS = ("", ".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Block:
    """Some rows of a row group of a file."""

    file: Path
    group: int
    start: int
    rows: int
    first: int
    """Number of the first row, counted over all files."""


@dataclass(frozen=True)
class PixmoSource:
    """Rows in the files' order; every row is one picture's."""

    card: SourceCard
    notes: Sequence[str]
    options: Options
    variants: Sequence[str]
    images: Path
    blocks: Sequence[Block]

    @property
    def units(self) -> Sequence[Unit]:
        return [Unit(i, f"{block.file.name}, row {block.first} on") for i, block in enumerate(self.blocks)]

    def samples(self, unit: Unit) -> Iterator[Sample | Dropped]:
        block = self.blocks[unit.number]
        for index, row in enumerate(_rows(block)):
            yield from self._row_samples(block.first + index, row, block)

    def _row_samples(self, number: int, row: dict[str, Any], block: Block) -> Iterator[Sample | Dropped]:
        url, sha256 = str(row.get("image_url") or ""), str(row.get("image_sha256") or "")
        content = self._content(url, sha256)
        refusal = "" if url or sha256 else "no link to a picture"
        refusal = refusal or ("picture missing (dead link)" if content is None else "")
        if content is not None and sha256 and hashlib.sha256(content).hexdigest() != sha256:
            refusal = "picture changed since it was annotated"
        size = None if content is None or refusal else _size(content)
        picture = Picture(
            number,
            "",
            picture_split(self.options, url or sha256),
            row_questions(row, self.variants, size),
            provenance={"url": url, "row": f"{block.file.name} {number - block.first + block.start}"},
            refusal=refusal,
        )
        if picture.questions:
            yield from picture_samples(picture, content, self.options)

    def _content(self, url: str, sha256: str) -> bytes | None:
        stems = [sha256, hashlib.sha256(url.encode()).hexdigest() if url else ""]
        for stem in filter(None, stems):
            for ending in _ENDINGS:
                path = self.images / f"{stem}{ending}"
                if path.is_file():
                    return path.read_bytes()
        return None


def open_source(path: Path, options: Options) -> PixmoSource:
    """A folder with parquet files (there or in `data/`) and the pictures; refuses tables of another kind."""
    variants = chosen_variants(options, VARIANTS)
    files = sorted([*path.glob("*.parquet"), *path.glob("data/*.parquet")])
    images = next((path / name for name in _FOLDERS if (path / name).is_dir()), None)
    if not files or images is None or not any(images.iterdir()):
        got = "no *.parquet" if not files else f"no pictures in {' or '.join(_FOLDERS)}"
        raise UserError(
            str(path), got=got, expected="PixMo's tables and the pictures behind their links", do="fetch both first"
        )
    blocks: list[Block] = []
    for file in files:
        blocks += _blocks(file, variants, sum(block.rows for block in blocks))
    if not blocks:
        raise UserError(str(path), got="no rows", expected=f"rows for {', '.join(variants)}", do="fetch them again")
    card = web_card(
        options,
        description=f"PixMo ({', '.join(variants)})",
        origin="pi05 data convert pixmo",
        licence="",
    )
    notes = (
        "The tables name no licence: PixMo's page states ODC-BY 1.0 for the texts, pictures have their own.",
        "A picture that its link no longer gives is counted as dropped.",
    )
    return PixmoSource(card, notes, options, variants, images, blocks)


def _blocks(file: Path, variants: Sequence[str], first: int) -> list[Block]:
    """The units of a file, [] where no chosen variant needs it."""
    try:
        table = pyarrow.parquet.ParquetFile(file)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        _refuse(file, error)
    with table:
        columns = set(table.schema_arrow.names)
        if "image_url" not in columns or not columns & {"caption", "points"}:
            raise UserError(
                str(file), got=f"columns {sorted(columns)}", expected="image_url with caption or points",
                do="keep only PixMo's cap, points and count tables there",
            )  # fmt: skip
        if not (
            ("caption" in columns and "cap" in variants) or ("points" in columns and {*variants} & {*VARIANTS[1:]})
        ):
            return []
        blocks = []
        for group in range(table.metadata.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            for start in range(0, rows, ROWS_PER_UNIT):
                blocks.append(Block(file, group, start, min(ROWS_PER_UNIT, rows - start), first + start))
            first += rows
    return blocks


def _rows(block: Block) -> list[dict[str, Any]]:
    try:
        with pyarrow.parquet.ParquetFile(block.file) as table:
            columns = [name for name in COLUMNS if name in table.schema_arrow.names]
            group = table.read_row_group(block.group, columns=columns)
        rows: list[dict[str, Any]] = group.slice(block.start, block.rows).to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        _refuse(block.file, error)
    return rows


def _refuse(file: Path, error: Exception) -> NoReturn:
    got = " ".join(str(error).split())
    raise UserError(str(file), got=got, expected="a whole parquet file", do="fetch it again") from error


def _size(content: bytes) -> tuple[int, int] | None:
    try:
        return picture_size(content)
    except PictureError:
        return None


def row_questions(row: dict[str, Any], variants: Sequence[str], size: tuple[int, int] | None) -> list[Question]:
    """What a row asks about its picture of `size` (height, width); None: the picture is of no use anyway."""
    found = []
    if "cap" in variants and "caption" in row:
        found.append(Question(CAP_QUESTION, str(row["caption"] or "")))
    if "points" not in row:
        return found
    label, count = str(row.get("label") or "").strip(), row.get("count")
    points = _points(row, size or (1, 1))
    refusal = "no label" if not label else "malformed points" if points is None else ""
    points = points or ()
    if not refusal and count is not None and count != len(points):
        refusal = "count and points differ"
    if "points" in variants:
        answer = POINTS_FIELD if points else NOTHING_THERE
        long = f"more than {MOST_POINTS} points" if len(points) > MOST_POINTS else ""
        found.append(Question(POINT_QUESTION.format(label=label), answer, points=points, refusal=refusal or long))
    if "counts" in variants:
        found.append(Question(COUNT_QUESTION.format(label=label), str(len(points)), refusal=refusal))
    return found


def _points(row: dict[str, Any], size: tuple[int, int]) -> tuple[tuple[float, float], ...] | None:
    """(x, y) in pixels, near misses moved to the edge; None for what are no finite positions."""
    height, width = size
    scale_x, scale_y = (width / 100, height / 100) if row.get("collection_method") else (1.0, 1.0)
    listed = row["points"] if row["points"] is not None else []
    if isinstance(listed, dict):
        columns = [listed.get(axis) or [] for axis in "xy"]
        if not all(isinstance(column, list) for column in columns) or len(columns[0]) != len(columns[1]):
            return None
        listed = [{"x": x, "y": y} for x, y in zip(*columns, strict=True)]
    if not isinstance(listed, list):
        return None
    found = []
    for point in listed:
        x, y = (point.get("x"), point.get("y")) if isinstance(point, dict) else (None, None)
        if not (isinstance(x, int | float) and isinstance(y, int | float) and math.isfinite(x) and math.isfinite(y)):
            return None
        found.append((_onto(x * scale_x, width), _onto(y * scale_y, height)))
    return tuple(found)


def _onto(position: float, length: int) -> float:
    near = -OVERSHOOT * length <= position <= (1 + OVERSHOOT) * length
    return min(max(position, 0.0), float(length)) if near else position
