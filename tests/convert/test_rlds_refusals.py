"""RLDS folders that are no good: refused in one sentence, single bad episodes dropped and counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pi05_train.convert.rlds import open_source
from pi05_train.convert.rlds_datasets import DATASETS
from pi05_train.errors import UserError
from tests.convert.rlds_episodes import (
    converted_one,
    features_of,
    folder_of,
    options,
    record_with,
    samples_of,
)
from tests.convert.rlds_folders import Stored, write_folder


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("steps/observation/state", lambda stored: stored + np.float32(np.inf), "NaN in states"),
        ("steps/observation/image_0", lambda stored: [b"no picture", *stored[1:]], ""),
        ("steps/observation/image_0", lambda stored: [*stored[:2], b"no picture", stored[3]], "picture unreadable"),
    ],
)
def test_bad_values_are_dropped_and_counted(
    tmp_path: Path, name: str, value: Callable[[Any], Stored], reason: str
) -> None:
    _, dropped = converted_one(tmp_path, "bridge", record_with("bridge", name, value))
    trimmed = ["first step has no action", "last step has no action"]
    assert [drop.reason for drop in dropped] == [*trimmed, *([reason] if reason else [])]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("steps/action", lambda stored: stored.astype(np.int64), "steps/action holds 28 int64 instead"),
        ("steps/observation/image_0", lambda stored: stored[1:], "3 byte strings instead of 4 byte strings"),
        ("steps/language_instruction", lambda _: [], "0 byte strings instead of 4"),
        ("steps/is_first", lambda stored: stored[:3], "instead of 3"),
        ("steps/is_first", lambda stored: stored[:0], "steps/is_first is empty beside"),
    ],
)
def test_a_record_that_features_json_does_not_describe_is_refused(
    tmp_path: Path, name: str, value: Callable[[Any], Stored], words: str
) -> None:
    with pytest.raises(UserError, match=rf"toy-train\.tfrecord-00000-of-00001, offset 0: got .*{words}"):
        converted_one(tmp_path, "bridge", record_with("bridge", name, value))


def damaged(path: Path, edit: Callable[[bytes], bytes]) -> Path:
    shard = sorted(path.glob("*.tfrecord-*"))[0]
    shard.write_bytes(edit(shard.read_bytes()))
    return path


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda content: content[:-40] + b"?" + content[-39:], r"offset \d+: got a payload of \d+ bytes"),
        (lambda content: b"?" + content[1:], r"offset 0: got a record length"),
    ],
)
def test_damaged_files_are_refused_by_name_and_offset(
    tmp_path: Path, edit: Callable[[bytes], bytes], words: str
) -> None:
    path = damaged(folder_of(tmp_path, DATASETS["bridge"], [[3, 3]]), edit)
    with pytest.raises(UserError, match=r"bridge-train\.tfrecord-00000-of-00001, " + words):
        samples_of(path, options("bridge"))


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ("bridges", "--dataset: got 'bridges', expected one of austin_buds, "),
        ("kuka", r"features\.json: got no steps/observation/clip_function_input/base_pose_tool_reached"),
        ("dobbe", r"features\.json: got no pictures steps/observation/wrist_image"),
        ("taco_play", r"got no pictures steps/observation/rgb_static, steps/observation/rgb_gripper"),
        ("bridge:val", "split val: got no shards"),
    ],
)
def test_the_wrong_data_set_is_refused(tmp_path: Path, chosen: str, words: str) -> None:
    path = folder_of(tmp_path, DATASETS["bridge"], [[3]])
    if chosen == "kuka":
        path = folder_of(tmp_path / "other", DATASETS["jaco_play"], [[3]])
    with pytest.raises(UserError, match=words):
        open_source(path, options(chosen))


def test_features_without_a_key_are_refused(tmp_path: Path) -> None:
    features = features_of(DATASETS["bridge"])
    del features["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]["action"]
    write_folder(tmp_path, features, [[]])
    with pytest.raises(UserError, match=r"features\.json: got no steps/action, expected the features of bridge"):
        open_source(tmp_path, options("bridge"))
