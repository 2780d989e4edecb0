"""Robot tars of vla_foundry: the real ones value by value, and made-up ones for everything that may be wrong."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pi05_train.convert.lbm import ARMS, CAMERA_NAMES, PARTS
from pi05_train.convert.source import Options
from pi05_train.convert.webdataset import open_source
from pi05_train.errors import UserError
from tests.convert.found import Found, checked, dropped, everything, samples
from tests.convert.test_tars import tar_bytes
from tests.convert.web_pictures import SHARED

REAL = SHARED / "data" / "small_lbm_webdataset"
OPTIONS = Options("lbm", "CE", horizon=4, image_size=16, dataset="lbm")
CAMERAS = [names[0] for names in CAMERA_NAMES.values()]
STEPS, ANCHOR = 8, 2
Parts = dict[str, Any]


def picture(brightness: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), brightness, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def record(frame: int, *, episode: str = "episode_0", padded: int = 0) -> Parts:
    """A record by parts; entry k of the measured (commanded) numbers of step n is frame + n + k / 32 (+ 0.5)."""
    clock = frame + np.arange(STEPS)[:, None] - ANCHOR
    arrays: dict[str, NDArray[Any]] = {
        "future_mask": (np.arange(STEPS) >= ANCHOR) & (np.arange(STEPS) < STEPS - padded)
    }
    start = 0
    for arm in ARMS:
        for name, size in PARTS.items():
            numbers = clock + np.arange(start, start + size) / 32
            arrays[f"robot__actual__{name.format(arm)}"] = numbers
            arrays[f"robot__action__{name.format(arm)}"] = numbers + 0.5
            start += size
    meta = {"episode_id": episode, "anchor_timestep": frame, "anchor_relative_idx": ANCHOR, "camera_names": CAMERAS}
    words = {"randomized": ["set it down"], "original": ["put the cup down"]}
    pictures = {f"{camera}_t{time}.jpg": picture(10 * (frame % 8) + 40 * i + 20 * (time == 0))
                for i, camera in enumerate(CAMERAS) for time in (-1, 0)}  # fmt: skip
    return {"arrays": arrays, "metadata.json": meta, "language_instructions.json": words, **pictures}


def write(path: Path, records: list[Parts]) -> Path:
    members = []
    for number, parts in enumerate(records):
        for name, content in parts.items():
            if name == "arrays":
                buffer = io.BytesIO()
                np.savez(buffer, **content)
                name, content = "lowdim.npz", buffer.getvalue()
            members.append(
                (f"key{number}.{name}", content if isinstance(content, bytes) else json.dumps(content).encode())
            )
    path.write_bytes(tar_bytes(members))
    return path


def opened(path: Path, options: Options = OPTIONS) -> Found:
    source = open_source(path, options)
    return checked(source)


def test_state_chunk_and_pictures_are_those_of_the_anchor(tmp_path: Path) -> None:
    found = samples(opened(write(tmp_path / "shard_000000.tar", [record(3), record(1, padded=4), record(2)])))
    assert [sample.frame for sample in found] == [3, 1, 2]
    assert len({sample.episode for sample in found}) == 1
    assert {sample.task for sample in found} <= {"set it down", "put the cup down"}
    for sample in found:
        numbers = sample.frame + np.arange(20) / 32
        assert sample.state is not None
        assert sample.actions is not None
        assert sample.action_valid is not None
        np.testing.assert_allclose(sample.state, numbers, rtol=1e-6)
        np.testing.assert_allclose(sample.actions, numbers + 0.5 + np.arange(4)[:, None], rtol=1e-6)
        assert sample.action_valid.tolist() == [True, True, sample.frame != 1, sample.frame != 1]
        for i, content in enumerate(sample.images.values()):
            assert np.asarray(Image.open(io.BytesIO(content))).mean() == pytest.approx(
                10 * (sample.frame % 8) + 40 * i + 20, abs=2
            )


def test_the_stride_counts_frames_of_the_episode(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", [record(frame) for frame in (5, 2, 4, 3)])
    source = open_source(tmp_path, Options(**vars(OPTIONS) | {"stride": 2}))
    assert [sample.frame for sample in samples(everything(source))] == [2, 4]
    assert everything(pickle.loads(pickle.dumps(source)))[0].key == "00000000_000001"


def test_frames_of_an_episode_are_on_one_side(tmp_path: Path) -> None:
    records = [record(frame, episode=f"episode_{frame % 6}") for frame in range(18)]
    found = samples(opened(write(tmp_path / "a.tar", records), Options(**vars(OPTIONS) | {"heldout": 0.6})))
    sides = {(sample.provenance["episode"], sample.split) for sample in found}
    assert len(sides) == 6
    assert {side for _, side in sides} == {"train", "heldout"}


def changed(part: str, edit: Callable[[Any], Any]) -> Callable[[Parts], None]:
    def change(parts: Parts) -> None:
        content = edit(parts[part])
        if content is None:
            del parts[part]
        else:
            parts[part] = content

    return change


XYZ = "poses__left::panda__xyz"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (changed("arrays", lambda a: a | {f"robot__actual__{XYZ}": np.zeros((STEPS - 1, 3))}), "array lengths differ"),
        (changed("arrays", lambda a: {"future_mask": a["future_mask"]}), "arrays missing"),
        (changed("arrays", lambda a: {k: v for k, v in a.items() if k != "future_mask"}), "array lengths differ"),
        (changed("arrays", lambda a: a | {"future_mask": np.zeros(STEPS, bool)}), "future_mask has gaps"),
        (changed("arrays", lambda a: {k: v[: ANCHOR + 2] for k, v in a.items()}), "chunk shorter than the horizon"),
        (changed("arrays", lambda _: None), "lowdim.npz missing or unreadable"),
        (changed("metadata.json", lambda _: b"{"), "metadata.json missing or unreadable"),
        (changed("metadata.json", lambda m: m | {"anchor_relative_idx": STEPS}), "anchor missing in metadata.json"),
        (changed("language_instructions.json", lambda _: {"original": [" "]}), "no instruction"),
        (changed("language_instructions.json", lambda _: None), "language_instructions.json missing or unreadable"),
        (changed(f"{CAMERAS[0]}_t0.jpg", lambda _: None), "picture missing"),
        (changed(f"{CAMERAS[0]}_t0.jpg", lambda jpeg: jpeg[:-20]), "picture unreadable"),
    ],
)  # fmt: skip
def test_a_bad_record_is_counted(tmp_path: Path, change: Callable[[Parts], None], reason: str) -> None:
    bad = record(2)
    change(bad)
    found = opened(write(tmp_path / "a.tar", [record(1), bad, record(3)]))
    assert dropped(found) == Counter({reason: 1})
    assert [sample.frame for sample in samples(found)] == [1, 3]


def test_the_manifest_is_held_to(tmp_path: Path) -> None:
    write(tmp_path / "shard_0.tar", [record(1), record(2)])
    lines = [{"shard": "shard_0", "num_sequences": 3}, {"shard": "shard_1", "num_sequences": 2}]
    (tmp_path / "manifest.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    with pytest.raises(UserError, match=r"1 of 2 tars absent, shard_1\.tar"):
        open_source(tmp_path, OPTIONS)
    allowed = Options(**vars(OPTIONS) | {"allow_missing": True})
    assert dropped(opened(tmp_path, allowed)) == {"fewer records than manifest.jsonl says": 1}
    assert any("shard_1.tar" in note for note in open_source(tmp_path, allowed).notes)
    (tmp_path / "manifest.jsonl").write_text("{}")
    with pytest.raises(UserError, match=r"manifest\.jsonl"):
        open_source(tmp_path, OPTIONS)


def test_what_cannot_be_converted_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", [record(1)])
    for change, words in (({"kind": "WD"}, "kind"), ({"horizon": 7}, "--horizon 6 or less")):
        with pytest.raises(UserError, match=words):
            open_source(tmp_path, Options(**vars(OPTIONS) | change))
    (tmp_path / "other.tar").write_bytes(tar_bytes([("a.jpg", picture(1)), ("a.txt", b"a cup")]))
    with pytest.raises(UserError, match="as vla_foundry writes them"):
        open_source(tmp_path / "other.tar", OPTIONS)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the real tar in {REAL}")
def test_the_real_tar_value_by_value() -> None:
    options = Options("lbm", "CE", horizon=15, dataset="lbm")
    found = samples(opened(REAL, options))
    assert [sample.frame for sample in found] == [65, 7, 109, 25, 79]
    assert len({sample.task for sample in found}) > 1
    with tarfile.open(REAL / "shard_000000.tar") as archive:
        members = {member.name: archive.extractfile(member) for member in archive}
        files = {name: file.read() for name, file in members.items() if file}
    for sample in found:
        key = sample.provenance["sample"]
        arrays = np.load(io.BytesIO(files[f"{key}.lowdim.npz"]))
        assert sample.images["right_wrist_0_rgb"] == files[f"{key}.wrist_right_minus_t0.jpg"]
        assert sample.images["base_0_rgb"] == files[f"{key}.scene_right_0_t0.jpg"]
        assert sample.actions is not None
        assert sample.actions.shape == (15, 20)
        assert sample.state is not None
        right = arrays["robot__action__poses__right::panda__xyz"].astype(np.float32)
        np.testing.assert_array_equal(sample.actions[:, 10:13], right[1:])
        # What is commanded now is what the controller aims at one step later: anchor and chunk belong together.
        desired = arrays["robot__desired__poses__right::panda__xyz"].astype(np.float32)
        np.testing.assert_array_equal(sample.actions[:-1, 10:13], desired[2:])
        assert sample.state[9] == np.float32(arrays["robot__actual__grippers__left::panda_hand"][1, 0])
    with pytest.raises(UserError, match="--horizon 15 or less"):
        open_source(REAL, Options("lbm", "CE", dataset="lbm"))
