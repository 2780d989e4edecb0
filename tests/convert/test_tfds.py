from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pi05_train.convert.tfds import Feature, decode, read_features, read_info, read_split
from pi05_train.convert.tfrecord import parse_example
from pi05_train.errors import UserError
from tests.convert.rlds_folders import BOOL, TEXT, dataset, example, image, tensor, tree, write_folder


def test_features_are_named_as_in_the_records(tmp_path: Path) -> None:
    nested = {"pythonClassName": "Sequence", "sequence": {"feature": tensor("float32", 2)}}
    steps = {"is_first": BOOL, "observation": {"image": image(4, 5, 3), "boxes": nested}, "words": TEXT}
    others = {"pythonClassName": "ClassLabel", "classLabel": {"numClasses": "3"}}
    video = {"pythonClassName": "Video", "video": {}}
    (tmp_path / "features.json").write_text(json.dumps(dataset(steps, meta={"path": TEXT, "lab": others, "v": video})))
    assert read_features(tmp_path) == {
        "steps/is_first": Feature("bool", (), "none", 1),
        "steps/observation/image": Feature("string", (4, 5, 3), "image", 1),
        "steps/observation/boxes": Feature("float32", (2,), "none", 2),
        "steps/words": Feature("string", (), "none", 1),
        "meta/path": Feature("string", ()),
        "meta/lab": Feature("int64", ()),
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "valid JSON"),
        ("[]", "got list"),
        ("{}", "no usable 'featuresDict'"),
        ('{"sequence": {}}', "no usable 'feature'"),
        (
            json.dumps(tree({"a": {"pythonClassName": "Tensor", "tensor": {"dtype": "int8"}}})),
            "a: got no usable 'shape'",
        ),
        (
            json.dumps(tree({"a": {"pythonClassName": "", "tensor": {"dtype": "x", "shape": {"dimensions": ["n"]}}}})),
            "a",
        ),
    ],
)
def test_a_features_file_of_another_kind_is_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "features.json").write_text(content)
    with pytest.raises(UserError, match=words):
        read_features(tmp_path)


def test_a_folder_without_features_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"features\.json: got no such file"):
        read_features(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bool", "uint8", "int32", "int64"])
def test_tensors_come_back_in_their_type_and_shape(dtype: str) -> None:
    values = (np.arange(12).reshape(2, 3, 2) % 2 if dtype == "bool" else np.arange(12).reshape(2, 3, 2)).astype(dtype)
    stored = parse_example(example({"x": values}))["x"]
    found = decode(stored, Feature(dtype, (3, 2), "none", 1), 2, "x")
    assert isinstance(found, np.ndarray)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("encoding", ["bytes", "zlib"])
def test_encoded_tensors_come_back(encoding: str) -> None:
    values = np.arange(6, dtype=np.float64).reshape(2, 3)
    rows = [row.tobytes() if encoding == "bytes" else zlib.compress(row.tobytes()) for row in values]
    np.testing.assert_array_equal(decode(rows, Feature("float64", (3,), encoding, 1), 2, "x"), values)


@pytest.mark.parametrize(
    ("value", "feature", "words"),
    [
        (np.zeros(5, np.float32), Feature("float32", (3,)), "5 float32 instead of 6 float32"),
        (np.zeros(6, np.int64), Feature("float32", (3,)), "6 int64 instead of 6 float32"),
        (np.zeros(6, np.float32), Feature("bool", (3,)), "6 float32 instead of 6 int64"),
        ([b"a"], Feature("float32", (3,)), "1 byte strings instead of 6"),
        ([b"a"], Feature("string", ()), "1 byte strings instead of 2 byte strings"),
        (np.zeros(2, np.int64), Feature("string", (4, 4, 3), "image"), "2 int64 instead of 2 byte strings"),
        ([b"a", b"b"], Feature("string", (2,)), "not supported"),
        (np.zeros(6, np.float32), Feature("float32", (-1,)), "varies"),
        ([b"a", b"b"], Feature("float32", (3,), "zlib"), "zlib cannot unpack"),
        ([b"a", b"b"], Feature("float32", (3,), "bytes"), "2 bytes instead of 6 float32"),
        (np.zeros(2, np.float32), Feature("float32", (3,), "bytes"), "instead of 2 encoded tensors"),
    ],
)
def test_a_value_that_does_not_fit_its_feature_is_named(value: Any, feature: Feature, words: str) -> None:
    with pytest.raises(ValueError, match=f"steps/x .*{words}"):
        decode(value, feature, 2, "steps/x")


RECORD = {"steps/is_first": np.array([1, 0])}


def test_records_keep_their_numbers_when_shards_are_absent(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, dataset({"is_first": BOOL}), [[RECORD] * 2, [RECORD], [RECORD] * 3])
    info = read_info(folder)
    whole = read_split(folder, info, "train", allow_missing=False)
    assert [(shard.first, shard.records) for shard in whole.shards] == [(0, 2), (2, 1), (3, 3)]
    assert (whole.absent, whole.end) == (0, 6)
    whole.shards[1].path.unlink()
    with pytest.raises(UserError, match=r"1 absent, first 1.*--allow-missing"):
        read_split(folder, info, "train", allow_missing=False)
    part = read_split(folder, info, "train", allow_missing=True, first=10)
    assert [(shard.first, shard.records) for shard in part.shards] == [(10, 2), (13, 3)]
    assert (part.absent, part.end) == (1, 16)
    with pytest.raises(UserError, match=r"fetch dataset_info\.json"):
        read_split(folder, {}, "train", allow_missing=True)


def test_without_info_records_are_counted(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, dataset({"is_first": BOOL}), [[RECORD] * 2, [], [RECORD]], info=False)
    split = read_split(folder, read_info(folder), "train", allow_missing=False)
    assert [(shard.first, shard.records) for shard in split.shards] == [(0, 2), (2, 0), (2, 1)]


def test_other_files_and_splits_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, dataset({"is_first": BOOL}), [[RECORD]])
    with pytest.raises(UserError, match=r"split val: got no shards.*\['train'\]"):
        read_split(folder, read_info(folder), "val", allow_missing=False)
    (folder / "toy-train.tfrecord-00000-of-00004").write_bytes(b"")
    with pytest.raises(UserError, match=r"shards of \[1, 4\]"):
        read_split(folder, {}, "train", allow_missing=False)
    (folder / "toy-train.tfrecord-00000-of-00004").unlink()
    (folder / "other-train.tfrecord-00000-of-00001").write_bytes(b"")
    with pytest.raises(UserError, match=r"files of \['other', 'toy'\]"):
        read_split(folder, {}, "train", allow_missing=False)
    (folder / "dataset_info.json").write_text('{"fileFormat": "riegeli"}')
    with pytest.raises(UserError, match="fileFormat: got riegeli"):
        read_info(folder)
