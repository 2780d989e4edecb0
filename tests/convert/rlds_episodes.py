"""Painted episodes of any entry of the table, as TFDS folders; frame f of an episode tells f wherever it can."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pi05_train.convert.rlds import open_source
from pi05_train.convert.rlds_datasets import DATASETS, Entry, Part
from pi05_train.convert.source import Dropped, Options
from pi05_train.samples.schema import CAMERAS, Sample
from tests.convert.fake_source import painted
from tests.convert.found import checked, samples
from tests.convert.rlds_folders import BOOL, TEXT, Stored, dataset, image, picture_file, tensor, write_folder

HIGH, WIDE = 32, 64
Episode = dict[str, Stored]


def options(entry: str, **changes: Any) -> Options:
    return Options(**{"name": "toy", "kind": "CE", "horizon": 4, "image_size": WIDE, "dataset": entry} | changes)


def leaf(part: Part) -> dict[str, Any]:
    whole = {"action/open_gripper": "bool", "action/future/target_close": "int64"}
    return tensor(whole.get(part.key, "float32"), *((part.of,) if part.of > 1 else ()))


def features_of(entry: Entry, height: int = HIGH, width: int = WIDE) -> dict[str, Any]:
    """features.json with what the entry reads, and a picture and an embedding that it does not."""
    steps: dict[str, Any] = {"is_first": BOOL, "is_last": BOOL, "observation": {"other": image(8, 8, 3)}}
    leaves = {part.key: leaf(part) for part in (*entry.state, *entry.actions)}
    leaves |= {camera.key: image(height, width, 3) for camera in entry.cameras}
    leaves |= {key: tensor("int32", 512) if entry.name == "language_table" else TEXT for key in entry.language}
    others: dict[str, Any] = {"episode_metadata": {"file_path": TEXT}}
    if entry.success_key.startswith("steps/"):
        leaves[entry.success_key.removeprefix("steps/")] = tensor("float32")
    elif entry.success_key and "/" not in entry.success_key:
        others[entry.success_key] = BOOL
    for key, value in leaves.items():
        node = steps
        *inner, last = key.split("/")
        for name in inner:
            node = node.setdefault(name, {})
        node[last] = value
    return dataset(steps, **others)


def episode_of(entry: Entry, number: int, frames: int, *, last: bool = True, encoded: str = "PNG") -> Episode:
    """Painted with 100 number + 10 camera + frame; column c of a feature at frame f holds f + c / 64."""
    record: Episode = {
        "steps/is_first": np.arange(frames) == 0,
        "steps/is_last": (np.arange(frames) == frames - 1) & last,
        "steps/observation/other": [picture_file(painted(0, 8, 16))] * frames,
        "episode_metadata/file_path": [f"lab/success/{number}".encode()],
    }
    for part in (*entry.state, *entry.actions):
        values = np.arange(frames)[:, None] + np.arange(part.of)[None] / 64
        kind = leaf(part)["tensor"]["dtype"]
        record[f"steps/{part.key}"] = (values % 2 if kind == "bool" else values).astype(kind)
    for camera in entry.cameras:
        place = CAMERAS.index(camera.ours)
        pictures = [painted(100 * number + 10 * place + frame, HIGH, WIDE) for frame in range(frames)]
        record[f"steps/{camera.key}"] = [picture_file(picture, encoded) for picture in pictures]
    for key in entry.language:
        words = f"task {number} of {key}"
        record[f"steps/{key}"] = [words.encode()] * frames
        if entry.name == "language_table":
            codes = np.zeros((frames, 512), np.int32)
            codes[:, : len(words)] = [ord(letter) for letter in words]
            record[f"steps/{key}"] = codes
    if entry.success_key.startswith("steps/"):
        record[entry.success_key] = np.ones(frames, np.float32)
    elif entry.success_key and "/" not in entry.success_key:
        record[entry.success_key] = np.array([True])
    return record


def folder_of(
    path: Path, entry: Entry, lengths: Sequence[Sequence[int]], *, encoded: str = "PNG", **changes: Any
) -> Path:
    """Shards of episodes with these lengths and pictures of this kind; the episodes are numbered through."""
    numbers = iter(range(100))
    shards = [[episode_of(entry, next(numbers), frames, encoded=encoded) for frames in shard] for shard in lengths]
    return write_folder(path, features_of(entry), shards, name=entry.name, **changes)


def samples_of(path: Path, chosen: Options) -> tuple[list[Sample], list[Dropped]]:
    found = checked(open_source(path, chosen))
    return samples(found), [each for each in found if isinstance(each, Dropped)]


def record_with(entry: str, name: str, value: Callable[[Any], Stored]) -> Episode:
    record = episode_of(DATASETS[entry], 0, 4)
    return record | {name: value(record[name])}


def converted_one(path: Path, entry: str, record: Mapping[str, Stored]) -> tuple[list[Sample], list[Dropped]]:
    write_folder(path, features_of(DATASETS[entry]), [[record]])
    return samples_of(path, options(entry))
