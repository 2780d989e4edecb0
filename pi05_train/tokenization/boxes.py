"""Boxes as text: four position tokens and a label (PaliGemma's order: y_min, x_min, y_max, x_max)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

LAST_BIN = 1023
_BOX = re.compile(r"<loc(\d{4})><loc(\d{4})><loc(\d{4})><loc(\d{4})>([^<\n]*)")


class BoxLike(Protocol):
    """What `box_text` reads: a label and four fractions of the image's height and width."""

    @property
    def label(self) -> str: ...
    @property
    def y_min(self) -> float: ...
    @property
    def x_min(self) -> float: ...
    @property
    def y_max(self) -> float: ...
    @property
    def x_max(self) -> float: ...


@dataclass(frozen=True)
class TextBox:
    """A box read from text; coordinates are multiples of 1/1023."""

    label: str
    y_min: float
    x_min: float
    y_max: float
    x_max: float


def coordinate_bin(fraction: float) -> int:
    """clip(round(fraction * 1023), 0, 1023) (big_vision's PaliGemma rule)."""
    return min(max(round(fraction * LAST_BIN), 0), LAST_BIN)


def box_text(box: BoxLike) -> str:
    """`<locYMIN><locXMIN><locYMAX><locXMAX>label`."""
    corners = (box.y_min, box.x_min, box.y_max, box.x_max)
    return "".join(f"<loc{coordinate_bin(corner):04d}>" for corner in corners) + box.label


def parse_boxes(text: str) -> list[TextBox]:
    """Every complete box of a text, in order; positions beyond 1023 and fragments are no boxes."""
    found = []
    for *corners, label in _BOX.findall(text):
        bins = [int(corner) for corner in corners]
        if max(bins) <= LAST_BIN:
            y_min, x_min, y_max, x_max = (b / LAST_BIN for b in bins)
            found.append(TextBox(label.strip(), y_min, x_min, y_max, x_max))
    return found
