"""One RLDS episode's record: its features by name, and what the table does to numbers and pictures."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pi05_train.convert.rlds_datasets import Camera, Change, Part
from pi05_train.convert.tfds import Feature, decode
from pi05_train.convert.tfrecord import Value


class Steps:
    """An episode's record: features by name, decoded when they are asked for. Raises ValueError for what is wrong."""

    def __init__(self, record: Mapping[str, Value], features: Mapping[str, Feature]) -> None:
        self.record, self.features = record, features
        self.count = len(record.get("steps/is_first", []))
        if not self.count and any(len(value) for name, value in record.items() if name.startswith("steps/")):
            raise ValueError("steps/is_first is empty beside features that are not")

    def get(self, name: str) -> NDArray[Any] | list[bytes]:
        """[T, ...] of a feature of the steps, [1, ...] of one of the episode."""
        feature = self.features[name]
        return decode(self.record.get(name, []), feature, self.count if feature.sequences else 1, name)

    def numbers(self, name: str) -> NDArray[np.float32]:
        """[T, n] float32, whatever the shape and the type."""
        values = self.get(name)
        if isinstance(values, list):
            raise ValueError(f"{name} holds byte strings instead of numbers")
        return values.reshape(len(values), -1).astype(np.float32)

    def texts(self, name: str) -> list[str]:
        """One per step; from byte strings, or from one number per character, filled up with zeros."""
        values = self.get(name)
        if isinstance(values, list):
            return [value.decode("utf-8", "replace") for value in values]
        if values.size and not 0 <= values.min() <= values.max() <= 0x10FFFF:
            raise ValueError(f"{name} holds numbers that are no characters")
        whole = ("".join(map(chr, row)).partition("\0")[0] for row in values.astype(np.int64).tolist())
        return [text.encode("utf-8", "replace").decode() for text in whole]

    def text(self, name: str) -> str:
        return self.texts(name)[0]

    def concatenated(self, parts: Sequence[Part]) -> NDArray[np.float32]:
        """[T, sum of sizes]; without parts one constant 0."""
        if not parts:
            return np.zeros((self.count, 1), np.float32)
        columns = [
            changed(self.numbers(f"steps/{part.key}")[:, part.start : part.start + part.size], part.change)
            for part in parts
        ]
        return np.concatenate(columns, axis=1)

    def pictures(self, camera: Camera) -> list[bytes] | BlueFirst | None:
        """The image files, one per step; None where an optional camera shows nothing."""
        name = f"steps/{camera.key}"
        files = self.get(name)
        assert isinstance(files, list), "checked when the source was opened"
        if camera.optional and files and _one_colour(files[0]):
            return None
        return BlueFirst(files) if camera.blue_first == self.features[name].shape[:2] else files


class BlueFirst(Sequence[Any]):
    """Pictures whose red and blue are exchanged, decoded one at a time."""

    def __init__(self, files: list[bytes]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return BlueFirst(self.files[index])
        pixels = _pixels(self.files[index])
        return self.files[index] if pixels is None else np.ascontiguousarray(pixels[..., ::-1])


def changed(values: NDArray[np.float32], change: Change) -> NDArray[np.float32]:
    """[T, n] after the table's change; what is not finite becomes NaN, so that no change hides it."""
    if not change:
        return values
    if change == "hold":
        result = _held(values)
    else:
        result = np.clip(values, 0, 1) if change != "invert" else values
        result = 1 - result if change != "clip" else result
    return np.where(np.isfinite(values), result, np.nan).astype(np.float32)


def _held(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """[T, n] of 0 (open) and 1 (closed) from commands to close (> 0.1), open (< -0.1) or stay."""
    result = np.zeros_like(values)
    for column, commands in enumerate(values.T):
        given = np.flatnonzero(np.abs(commands) > 0.1)
        if not len(given):
            continue
        closed = commands > 0.1
        last = np.maximum.accumulate(np.where(np.abs(commands) > 0.1, np.arange(len(commands)), -1))
        result[:, column] = np.where(last >= 0, closed[last], not closed[given[0]])
    return result


def _pixels(file: bytes) -> NDArray[np.uint8] | None:
    """[height, width, 3] RGB, None for what is no picture (the engine then drops and counts it)."""
    try:
        with Image.open(io.BytesIO(file)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _one_colour(file: bytes) -> bool:
    pixels = _pixels(file)
    return pixels is not None and bool((pixels == pixels[:1, :1]).all())
