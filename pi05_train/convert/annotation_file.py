"""The annotations a person (or a labelling tool) writes about a source: subtasks, boxes and spoken instructions.

    {"schema": 1,
     "picture_sizes": {"base_0_rgb": [480, 640]},
     "episodes": {"7": {"segments": [
        {"start": 0, "end": 30, "subtask": "pick up the plate", "instruction": "the plate first, please",
         "boxes": [{"label": "plate", "camera": "base_0_rgb",
                    "y_min": 0.4, "x_min": 0.1, "y_max": 0.6, "x_max": 0.3, "frame": 12}]}]}}}

`docs/convert.md` explains every field.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from pi05_train.errors import UserError
from pi05_train.samples.schema import CAMERAS, Box

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Segment:
    """What happens in the frames start <= frame < end of an episode."""

    start: int
    end: int
    subtask: str
    instruction: str = ""
    """What a person says to bring it about; "" where nobody speaks."""
    boxes: tuple[tuple[int | None, Box], ...] = ()
    """(frame, or None for all of the segment; box)."""

    def boxes_at(self, frame: int) -> tuple[Box, ...]:
        return tuple(box for where, box in self.boxes if where in (None, frame))


@dataclass(frozen=True)
class Annotations:
    """A read and checked file."""

    segments: Mapping[int, Sequence[Segment]]
    """By episode, in order."""
    picture_sizes: Mapping[str, tuple[int, int]]
    """(height, width) of the original pictures that a camera's boxes refer to; none: they refer to the stored ones."""

    def at(self, episode: int, frame: int) -> Segment | None:
        """The segment that covers the frame."""
        segments = self.segments.get(episode, ())
        place = bisect_right(segments, frame, key=lambda segment: segment.start) - 1
        return segments[place] if place >= 0 and frame < segments[place].end else None


def read_annotations(path: Path, cameras: Sequence[str]) -> Annotations:
    """The annotations for a source with these cameras; refuses (UserError naming the place) anything malformed."""
    if not path.is_file():
        raise UserError("annotations (--dataset)", got=str(path) or "nothing", expected="a json file", do="name it")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}", got=error, expected="valid JSON", do="correct the file") from error
    _require_fields(content, path.name, {"schema", "episodes"}, {"picture_sizes"})
    if content["schema"] != SCHEMA_VERSION:
        raise UserError(f"{path.name}, schema", got=content["schema"], expected=SCHEMA_VERSION, do="correct the file")
    segments: dict[int, Sequence[Segment]] = {}
    for episode, about in _mapping(content["episodes"], f"{path.name}, episodes").items():
        where = f"{path.name}, episode {episode}"
        _require(episode.isdecimal(), where, episode, "the number of an episode")
        _require_fields(about, where, {"segments"}, set())
        segments[int(episode)] = _segments(about["segments"], where, cameras)
    sizes = _mapping(content.get("picture_sizes", {}), f"{path.name}, picture_sizes")
    for camera, size in sizes.items():
        good = (
            camera in CAMERAS and isinstance(size, list) and len(size) == 2 and all(_whole(n) and n > 0 for n in size)
        )
        _require(good, f"{path.name}, picture_sizes", {camera: size}, "a camera and its [height, width] in pixels")
    return Annotations(segments, {camera: (size[0], size[1]) for camera, size in sizes.items()})


def _segments(content: object, where: str, cameras: Sequence[str]) -> Sequence[Segment]:
    _require(isinstance(content, list), f"{where}, segments", content, "a list")
    assert isinstance(content, list)
    segments = sorted((_segment(entry, where, cameras) for entry in content), key=lambda segment: segment.start)
    for before, after in pairwise(segments):
        got = f"{before.start} to {before.end} and {after.start} to {after.end}"
        _require(
            before.end <= after.start, f"{where}, segments", got, "segments that do not overlap (end is exclusive)"
        )
    return segments


def _segment(content: object, where: str, cameras: Sequence[str]) -> Segment:
    entry = _require_fields(content, f"{where}, segment", {"start", "end", "subtask"}, {"instruction", "boxes"})
    start, end = entry["start"], entry["end"]
    _require(_whole(start) and _whole(end) and 0 <= start < end, f"{where}, segment", (start, end), "0 <= start < end")
    where = f"{where}, segment {start} to {end}"
    subtask, instruction = entry["subtask"], entry.get("instruction", "")
    _require(isinstance(subtask, str) and bool(subtask.strip()), f"{where}, subtask", repr(subtask), "a text")
    _require(isinstance(instruction, str), f"{where}, instruction", repr(instruction), "a text")
    _require(isinstance(entry.get("boxes", []), list), f"{where}, boxes", entry.get("boxes"), "a list")
    boxes = tuple(_box(box, f"{where}, box", (start, end), cameras) for box in entry.get("boxes", []))
    return Segment(start, end, subtask.strip(), instruction.strip(), boxes)


def _box(content: object, where: str, frames: tuple[int, int], cameras: Sequence[str]) -> tuple[int | None, Box]:
    sides = ("y_min", "x_min", "y_max", "x_max")
    entry = _require_fields(content, where, {"label", *sides}, {"camera", "frame"})
    assert {field.name for field in fields(Box)} == {"label", "camera", *sides}
    frame, camera, label = entry.get("frame"), entry.get("camera", CAMERAS[0]), entry["label"]
    inside = frame is None or (_whole(frame) and frames[0] <= frame < frames[1])
    _require(inside, f"{where}, frame", frame, "a frame of its segment")
    _require(camera in cameras, f"{where}, camera", repr(camera), f"one of {list(cameras)}")
    _require(isinstance(label, str) and bool(label.strip()), f"{where}, label", repr(label), "a text")
    numbers = [entry[side] for side in sides]
    good = all(isinstance(n, (int, float)) and not isinstance(n, bool) and 0 <= n <= 1 for n in numbers)
    good = good and numbers[0] < numbers[2] and numbers[1] < numbers[3]
    _require(good, f"{where} {label}", numbers, "fractions with y_min < y_max and x_min < x_max")
    y_min, x_min, y_max, x_max = map(float, numbers)
    return frame, Box(label.strip(), y_min, x_min, y_max, x_max, camera)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _mapping(content: object, where: str) -> dict[str, Any]:
    _require(isinstance(content, dict), where, type(content).__name__, "a mapping")
    assert isinstance(content, dict)
    return content


def _require_fields(content: object, where: str, needed: set[str], optional: set[str]) -> dict[str, Any]:
    entry = _mapping(content, where)
    missing, unknown = sorted(needed - entry.keys()), sorted(entry.keys() - needed - optional)
    expected = f"the fields {sorted(needed)}" + (f" and perhaps {sorted(optional)}" if optional else "")
    _require(not missing and not unknown, where, f"missing {missing}, unknown {unknown}", expected)
    return entry


def _require(good: bool, where: str, got: object, expected: object) -> None:
    if not good:
        raise UserError(where, got=got, expected=expected, do="correct the file")
