"""Robot data of every format, and what may be wrong with each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import yaml

from pi05_train.convert.formats import opener
from pi05_train.convert.rlds_datasets import DATASETS
from pi05_train.convert.run import convert
from pi05_train.convert.source import Options
from pi05_train.data.sources.index import build_index
from pi05_train.samples.shards import write_shards
from tests.convert import hdf5_files, rlds_episodes
from tests.convert.bad_format import Damage, Format, edit_json
from tests.convert.lerobot_folders import TABLE, VIDEO, Dataset, column, cut, edit_info, rewrite
from tests.convert.rlds_folders import tensor, write_folder
from tests.convert.test_tars import tar_bytes
from tests.synthetic import CARDS, synthetic_samples


def replaced(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


def of_another_width(values: pyarrow.ChunkedArray) -> pyarrow.Array:
    return pyarrow.array([[1.0, 2.0]] * len(values))


def with_nan(values: pyarrow.ChunkedArray) -> pyarrow.Array:
    rows = values.to_pylist()
    rows[2][1] = float("nan")
    return pyarrow.array(rows, values.type)


V2, V3, EPISODES = TABLE["v2.1"], TABLE["v3.0"], "meta/episodes/chunk-000/file-000.parquet"


LEROBOT = {
    "lerobot v2.1": Format(
        "lerobot", "CE", Dataset("v2.1").write,
        {
            "cut table": (lambda r: cut(r / V2), {"table unreadable": 14}),
            "cut video": (lambda r: cut(r / VIDEO["v2.1"], 0.5), {"video unreadable": 14}),
            "cut metadata": (lambda r: cut(r / "meta/tasks.jsonl"), r"meta/tasks\.jsonl, line 2: got"),
            "not UTF-8": (
                lambda r: (r / "meta/episodes.jsonl").write_bytes(b'{"\xa4": 1}\n'), r"episodes\.jsonl, line 1: got",
            ),
            "unknown codec": (
                lambda r: replaced(r / VIDEO["v2.1"], b"avc1", b"xyz1"), {"video unreadable": 14},
            ),
            "foreign": (lambda r: edit_info(r, lambda i: i.update(codebase_version="v1.6")), "got 'v1.6', expected v2"),
            "dimensions": (
                lambda r: rewrite(r / V2, column("action", of_another_width)), {"dimensions differ from the card": 14},
            ),
            "NaN": (lambda r: rewrite(r / V2, column("action", with_nan)), {"NaN in actions": 14}),
            "empty": (lambda r: (r / "meta/episodes.jsonl").write_text(""), "got no episodes, expected at least one"),
        },
    ),
    "lerobot v3.0": Format(
        "lerobot", "CE", Dataset("v3.0").write,
        {
            "cut table": (lambda r: cut(r / V3), r"file-000\.parquet: got .*expected a whole parquet file"),
            "cut video": (lambda r: cut(r / VIDEO["v3.0"], 0.5), r"no usable sample: video unreadable \(28\)"),
            "cut metadata": (lambda r: cut(r / EPISODES), r"meta/episodes.*expected a whole parquet file"),
            "foreign": (lambda r: edit_info(r, lambda i: i.update(codebase_version="v2.1")), "got no such file"),
            "dimensions": (
                lambda r: edit_info(r, lambda i: i["features"]["action"].update(shape=[4])),
                r"action: got 3 numbers per row, expected the shape \[4\]",
            ),
            "NaN": (lambda r: rewrite(r / V3, column("observation.state", with_nan)), {"NaN in states": 9}),
            "empty": (lambda r: rewrite(r / EPISODES, lambda table: table[:0]), "got no episodes"),
        },
    ),
}  # fmt: skip


def rlds(folder: Path) -> Path:
    return rlds_episodes.folder_of(folder, DATASETS["bridge"], [[4], [4, 5]])


def last_shard(folder: Path) -> Path:
    return sorted(folder.glob("*.tfrecord-*"))[-1]


def rlds_actions(values: Any) -> Damage:
    """Another `steps/action` in the first shard."""
    entry = DATASETS["bridge"]
    bad = rlds_episodes.episode_of(entry, 0, 4)
    bad["steps/action"] = values(bad["steps/action"])

    def damage(folder: Path) -> None:
        write_folder(folder.parent / "bad", rlds_episodes.features_of(entry), [[bad], [bad, bad]], name="bridge")
        shard = "bridge-train.tfrecord-00000-of-00002"
        shutil.move(folder.parent / "bad" / shard, folder / shard)

    return damage


def wider_actions(folder: Path) -> None:
    features = rlds_episodes.features_of(DATASETS["bridge"])
    steps = features["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]
    steps["action"] = tensor("float32", 8)
    (folder / "features.json").write_text(json.dumps(features))


TRIMMED = {"first step has no action": 3, "last step has no action": 3}


RLDS = Format(
    "rlds", "CE", rlds,
    {
        "cut": (lambda r: cut(last_shard(r)), r"00001-of-00002, offset \d+: got the file's end"),
        "cut at a record": (
            lambda r: last_shard(r).write_bytes(b""), r"records: got 0, expected 2 as dataset_info\.json has it",
        ),
        "foreign": (
            lambda r: edit_json(r / "features.json", lambda _: rlds_episodes.features_of(DATASETS["toto"])),
            r"features\.json: got no pictures .*expected the cameras of bridge",
        ),
        "other file format": (
            lambda r: edit_json(r / "dataset_info.json", lambda info: info.update(fileFormat="array_record")),
            "got array_record, expected tfrecord",
        ),
        "no lengths": (
            lambda r: edit_json(r / "dataset_info.json", lambda i: i["splits"][0].update(shardLengths=[None, "2"])),
            r"dataset_info\.json, splits: got",
        ),
        "dimensions": (wider_actions, r"steps/action: got shape \[8\], expected \[7\]"),
        "dimensions in a record": (rlds_actions(lambda a: a[:, :6]), "holds 24 float32 instead of 28 float32"),
        "NaN": (rlds_actions(lambda a: a * np.float32([[1], [np.nan], [1], [1]])), TRIMMED | {"NaN in actions": 2}),
        "empty": (
            lambda r: [(r / "dataset_info.json").unlink(), *(s.write_bytes(b"") for s in r.glob("*.tfrecord-*"))],
            "got shards without records",
        ),
    },
    dataset="bridge",
)  # fmt: skip


def hdf5(folder: Path) -> Path:
    hdf5_files.write(folder / "a.hdf5")
    return hdf5_files.write(folder / "b.hdf5").parent


def in_hdf5(name: str, value: Any) -> Damage:
    return lambda folder: hdf5_files.change(folder / "b.hdf5", hdf5_files.rewritten(name, value))


def without_demonstrations(folder: Path) -> None:
    with h5py.File(folder / "b.hdf5", "w") as root:
        root.create_group("data")


HDF5 = Format(
    "hdf5", "CE", hdf5,
    {
        "cut": (lambda r: cut(r / "b.hdf5"), r"b\.hdf5: got .*expected a whole HDF5 file"),
        "no bytes": (lambda r: (r / "b.hdf5").write_bytes(b""), r"b\.hdf5: got .*expected a whole HDF5 file"),
        "foreign": (in_hdf5("data", None), "expected a group data with demonstrations"),
        "dimensions": (in_hdf5("data/demo_1/actions", np.zeros((7, 8))), {"dimensions differ from the card": 7}),
        "NaN": (in_hdf5("data/demo_1/actions", np.full((7, 7), np.nan)), {"NaN in actions": 7}),
        "Inf": (in_hdf5("data/demo_1/obs/robot0_eef_pos", np.full((7, 3), np.inf)), {"NaN in states": 7}),
        "empty": (without_demonstrations, "got no data/demo_k, expected at least one"),
    },
)  # fmt: skip


BASE = CARDS["toy_mobile"]


BOX = {"label": "cup", "camera": "left_wrist_0_rgb", "y_min": 0.25, "x_min": 0.5, "y_max": 0.75, "x_max": 1.0}


def annotated(folder: Path) -> Path:
    """Converted shards of eight episodes of five frames, and beside them annotations of all."""
    source = folder / "toy_mobile"
    write_shards(source, synthetic_samples(BASE), samples_per_shard=16)
    build_index(source)
    (source / "toy_mobile.yaml").write_text(yaml.safe_dump(asdict(BASE)))
    segments = [{"start": 0, "end": 5, "subtask": "lift the cup", "boxes": [BOX]}]
    episodes = {str(number): {"segments": segments} for number in range(8)}
    (folder / "annotations.json").write_text(json.dumps({"schema": 1, "episodes": episodes}))
    return source


def in_annotations(change: Callable[[Any], object]) -> Damage:
    return lambda source: edit_json(source.parent / "annotations.json", change)


def damage_within(name: str) -> Damage:
    """Some bytes of a file, which keeps its size."""

    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        start = len(content) // 3
        content[start : start + 512] = bytes(byte ^ 0x55 for byte in content[start : start + 512])
        (folder / name).write_bytes(content)

    return damage


def first_box(**changes: Any) -> Callable[[Any], object]:
    return lambda content: content["episodes"]["3"]["segments"][0].update(boxes=[BOX | changes])


ANNOTATIONS = Format(
    "annotations", "HL", annotated,
    {
        "cut": (lambda r: cut(r.parent / "annotations.json"), r"annotations\.json: got .*expected valid JSON"),
        "cut shard": (lambda r: cut(r / "shard-000001.tar"), r"shard-000001\.tar, bytes: got .* as indexed"),
        "damaged shard": (damage_within("shard-000001.tar"), "sample .* of source toy_mobile.*convert .* again"),
        "cut index": (lambda r: cut(r / "index.json"), r"index\.json: got JSONDecodeError.*pi05 data index"),
        "cut index table": (lambda r: cut(r / "index.npy"), r"index\.npy, sha256: got .*pi05 data index"),
        "foreign": (in_annotations(lambda c: c.update(schema=2)), "schema: got 2, expected 1"),
        "dimensions": (in_annotations(first_box(x_max=640)), "cup: got .*expected fractions"),
        "NaN": (in_annotations(first_box(x_max=float("nan"))), "cup: got .*expected fractions"),
        "empty": (
            in_annotations(lambda c: c.update(episodes={})), r"no usable sample: no annotation at this frame \(40\)",
        ),
    },
)  # fmt: skip


def master(folder: Path) -> Path:
    original = Dataset(stored="bytes").write(folder / "original")
    whole = Options("whole", "CE", tier="master")
    convert(opener("lerobot", "master"), original, folder / "whole", whole, samples_per_shard=2)
    return folder / "whole"


def cut_at_an_episode(folder: Path) -> None:
    """The second shard's only episode is gone, and what is left is a whole tar."""
    (folder / "shard-000001.tar").write_bytes(tar_bytes([]))


MASTER = Format(
    "master", "CE", master,
    {
        "cut": (lambda r: cut(r / "shard-000001.tar", 0.4), r"shard-000001\.tar: got .*expected a whole tar"),
        "no bytes": (lambda r: (r / "shard-000001.tar").write_bytes(b""), r"shard-000001\.tar: got .*a whole tar"),
        "cut at an episode": (cut_at_an_episode, "episodes: got 2, expected 3 as conversion.json has it"),
        "damaged": (damage_within("shard-000001.tar"), r"shard-000001\.tar.*restore"),
        "cut card": (lambda r: cut(r / "whole.yaml", 0.05), r"source card .*whole\.yaml: got .*expected a card"),
        "foreign card": (
            lambda r: replaced(r / "whole.yaml", b"state_dim: 3", b"state_dim: many"),
            "state_dim: got many, expected int",
        ),
        "cut record": (lambda r: cut(r / "conversion.json"), r"conversion\.json: got .*what a conversion writes"),
        "foreign": (
            lambda r: edit_json(r / "conversion.json", lambda c: c["options"].update(tier="train")),
            "tier: got 'train', expected a folder made with --tier master",
        ),
        "foreign tar": (
            lambda r: (r / "shard-000001.tar").write_bytes(tar_bytes([("a.txt", b"a")])),
            "got the key a, expected a whole tar of episodes",
        ),
        "dimensions": (
            lambda r: (r / "whole.yaml").write_text((r / "whole.yaml").read_text().replace("dim: 3", "dim: 4")),
            r"no usable sample: dimensions differ from the card \(28\)",
        ),
        "empty": (lambda r: [shard.unlink() for shard in r.glob("*.tar")], "episodes: got 0, expected 3"),
    },
)  # fmt: skip
