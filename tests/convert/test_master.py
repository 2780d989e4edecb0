"""Tier master: whole episodes as they are, out of which come the very samples that the original data give."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pi05_train.commands.main import main
from pi05_train.convert.formats import opener
from pi05_train.convert.rlds_datasets import DATASETS
from pi05_train.convert.run import Conversion, convert
from pi05_train.convert.source import Options
from pi05_train.errors import UserError
from pi05_train.samples.card import SourceCard, check_card
from tests.convert import hdf5_files, rlds_episodes
from tests.convert.fake_source import read_shards
from tests.convert.lerobot_folders import LANGUAGE, VIDEO, Dataset, needs_encoder

OPTIONS = Options(name="toy", kind="CE", horizon=6, image_size=64, heldout=0.4)
CAMERAS = {"observation.images.top": 0, "observation.images.cam_right_wrist": 1000}


def lerobot(version: str, **fields: Any) -> Callable[[Path], Path]:
    return lambda path: Dataset(version, cameras=CAMERAS, **fields).write(path)


def rlds(name: str, kind: str = "PNG") -> Callable[[Path], Path]:
    entry = DATASETS[name]
    return lambda path: rlds_episodes.folder_of(path, entry, [[4, 5], [3]], encoded=kind)


def masked_hdf5(path: Path) -> Path:
    mask = {"train": ["demo_0"], "valid": ["demo_2"]}
    return hdf5_files.write(path / "a.hdf5", (5, 7, 3), mask=mask).parent


def libero(path: Path) -> Path:
    hdf5_files.write_libero(path / "open_the_drawer_demo.hdf5", lengths=(5, 7, 3, 2))
    return hdf5_files.write_libero(path / "close_it_demo.hdf5", lengths=(2, 2)).parent


SOURCES: dict[str, tuple[str, Callable[[Path], Path], str]] = {
    **{f"lerobot v2.1 {codec}": ("lerobot", lerobot("v2.1", codec=codec), "mp4") for codec in ("h264", "h265", "av1")},
    **{
        f"lerobot v3.0 {codec}": ("lerobot", lerobot("v3.0", codec=codec, joined=True), "mp4")
        for codec in ("h264", "h265", "av1")
    },
    "lerobot in the table": ("lerobot", lerobot("v3.0", stored="bytes"), "zip"),
    "lerobot jpeg": ("lerobot", lerobot("v2.1", stored="jpeg"), "zip"),
    "lerobot png": ("lerobot", lerobot("v2.1", stored="png"), "zip"),
    "rlds": ("rlds", rlds("bridge"), "zip"),
    "rlds jpeg": ("rlds", rlds("bridge", "JPEG"), "zip"),
    "rlds blue first": ("rlds", rlds("berkeley_fanuc"), "zip"),
    "hdf5 masked": ("hdf5", masked_hdf5, "zip"),
    "hdf5 upside down": ("hdf5", libero, "zip"),
}
"""Name to format, what writes the original data, and how its pictures are kept."""


def made(format_name: str, path: Path, folder: Path, options: Options = OPTIONS, **changes: Any) -> Conversion:
    chosen = replace(options, **{name: changes.pop(name) for name in asdict(options) if name in changes})
    return convert(opener(format_name, chosen.tier), path, folder, chosen, **({"samples_per_shard": 4} | changes))


def members(folder: Path) -> dict[str, bytes]:
    """Every member of the folder's tars by its name."""
    found: dict[str, bytes] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            found |= {member.name: file.read() for member in archive if (file := archive.extractfile(member))}
    return found


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


@pytest.mark.parametrize("name", SOURCES)
def test_samples_out_of_a_master_folder_are_those_of_the_original(name: str, tmp_path: Path) -> None:
    """Byte for byte: keys, numbers, texts, split and pictures, whatever horizon, picture size, stride and quality."""
    format_name, write, suffix = SOURCES[name]
    if format_name == "lerobot" and suffix == "mp4":
        needs_encoder(name.split()[-1])
    original = write(tmp_path / "original")
    dataset = "" if format_name != "rlds" else "berkeley_fanuc" if "blue" in name else "bridge"
    whole = made(format_name, original, tmp_path / "whole" / "toy", tier="master", dataset=dataset)
    suffixes = {member.rpartition(".")[2] for member in members(tmp_path / "whole" / "toy")}
    assert suffixes == {"json", "npz", suffix}
    assert not [reason for reason in whole.dropped if "mask" not in reason]
    for number, changes in enumerate(({}, {"horizon": 9, "image_size": 48, "stride": 3, "jpeg_quality": 80})):
        direct, again = tmp_path / f"direct{number}" / "toy", tmp_path / f"again{number}" / "toy"
        made(format_name, original, direct, dataset=dataset, **changes)
        made("master", tmp_path / "whole" / "toy", again, **changes)
        assert shards(again) == shards(direct)
        assert len({sample.episode for sample in read_shards(again)}) == whole.samples > 1
        assert (again / "toy.yaml").read_text() == (direct / "toy.yaml").read_text()


@pytest.mark.parametrize("kind", ["HL", "VI"])
def test_subtasks_and_what_people_said_are_kept(kind: str, tmp_path: Path) -> None:
    original = Dataset("v3.0", stored="bytes", extra=LANGUAGE).write(tmp_path / "original")
    made("lerobot", original, tmp_path / "whole", tier="master")
    made("lerobot", original, tmp_path / "direct", kind=kind)
    made("master", tmp_path / "whole", tmp_path / "again", kind=kind)
    assert shards(tmp_path / "again") == shards(tmp_path / "direct")


def test_an_episode_holds_its_files_as_they_were(tmp_path: Path) -> None:
    data = Dataset("v2.1", cameras=CAMERAS)
    original = data.write(tmp_path / "original")
    whole = made("lerobot", original, tmp_path / "whole", tier="master", stride=5)
    assert (whole.samples, whole.units, whole.heldout) == (3, 3, 0)
    held = members(tmp_path / "whole")
    assert held["00000001.base_0_rgb.mp4"] == (original / VIDEO["v2.1"]).read_bytes()
    numbers = np.load(io.BytesIO(held["00000001.lowdim.npz"]))
    assert numbers["state"][:, 0].tolist() == [data.number(1, frame) for frame in range(14)]
    assert numbers["actions"][:, 0].tolist() == [data.number(1, frame) + 0.5 for frame in range(14)]
    header = json.loads(held["00000001.json"])
    assert (header["number"], header["task"], header["rate_hz"]) == (1, "open the drawer", 10.0)


def test_picture_files_are_kept_byte_for_byte(tmp_path: Path) -> None:
    original = Dataset("v2.1", stored="png").write(tmp_path / "original")
    made("lerobot", original, tmp_path / "whole", tier="master")
    with zipfile.ZipFile(io.BytesIO(members(tmp_path / "whole")["00000001.base_0_rgb.zip"])) as archive:
        assert archive.namelist() == [f"{frame:06d}.png" for frame in range(14)]
        for frame, name in enumerate(archive.namelist()):
            kept = original / f"images/observation.images.top/episode_000001/frame_{frame:06d}.png"
            assert archive.read(name) == kept.read_bytes()


def test_an_unreadable_picture_is_kept_and_drops_its_sample_later(tmp_path: Path) -> None:
    original = Dataset("v2.1", stored="png").write(tmp_path / "original")
    (original / "images/observation.images.top/episode_000001/frame_000003.png").write_bytes(b"\x89PNG cut")
    (original / "images/observation.images.top/episode_000001/frame_000005.png").unlink()
    assert not made("lerobot", original, tmp_path / "whole", tier="master").dropped
    assert made("master", tmp_path / "whole", tmp_path / "again").dropped == {"picture unreadable": 2}


def test_an_episode_that_no_key_frame_begins_is_dropped_with_the_reason(tmp_path: Path) -> None:
    """One stream over all episodes, key frames wherever they fall: never encoded anew, never cut wrongly."""
    original = Dataset("v3.0").write(tmp_path / "original")
    whole = made("lerobot", original, tmp_path / "whole", tier="master")
    assert whole.dropped == {"video cannot be cut there without encoding it anew": 2}
    assert [name for name in members(tmp_path / "whole") if name.endswith("mp4")] == ["00000000.base_0_rgb.mp4"]


def test_a_bad_episode_is_dropped_once_and_told_again(tmp_path: Path) -> None:
    original = Dataset("v2.1").write(tmp_path / "original")
    (original / VIDEO["v2.1"]).write_bytes((original / VIDEO["v2.1"]).read_bytes()[:900])
    whole = made("lerobot", original, tmp_path / "whole", tier="master")
    assert (whole.samples_in, whole.samples, whole.dropped) == (3, 2, {"video unreadable": 1})
    again = made("master", tmp_path / "whole", tmp_path / "again")
    assert "Left out when the master folder was made: 1 episodes, video unreadable." in again.notes


def test_nothing_trains_on_a_master_folder(tmp_path: Path) -> None:
    made("lerobot", Dataset().write(tmp_path / "original"), tmp_path / "whole", tier="master")
    card = SourceCard(**yaml.safe_load((tmp_path / "whole" / "toy.yaml").read_text()))
    with pytest.raises(
        UserError, match=r"tier: got 'master' \(whole episodes\).*`pi05 data convert master`"
    ) as refused:
        check_card(card)
    assert "\n" not in str(refused.value)
    made("master", tmp_path / "whole", tmp_path / "again")
    check_card(SourceCard(**yaml.safe_load((tmp_path / "again" / "toy.yaml").read_text())))


def test_what_a_master_folder_cannot_give_is_refused(tmp_path: Path) -> None:
    original = Dataset("v3.0", stored="bytes", extra=LANGUAGE).write(tmp_path / "original")
    made("lerobot", original, tmp_path / "arm", tier="master")
    made("lerobot", original, tmp_path / "words", tier="master", kind="HL")
    for folder, changes, sentence in (
        ("arm", {"kind": "WD"}, "folder of kind CE, kind: got WD, expected HL or VI, or MM, ME, CE"),
        ("words", {"kind": "CE"}, "folder of kind HL, kind: got CE, expected HL or VI;"),
        ("arm", {"dataset": "droid"}, "dataset: got 'droid', expected nothing"),
        ("original", {}, "got no conversion.json, expected a folder made with --tier master"),
    ):
        with pytest.raises(UserError, match=sentence):
            made("master", tmp_path / folder, tmp_path / "again", **changes)
    assert not (tmp_path / "again").exists()


def test_what_is_left_of_a_master_folder_is_taken_on_request(tmp_path: Path) -> None:
    original = Dataset(stored="bytes").write(tmp_path / "original")
    made("lerobot", original, tmp_path / "whole", tier="master", samples_per_shard=1)
    (tmp_path / "whole" / "shard-000001.tar").unlink()
    with pytest.raises(UserError, match=r"episodes: got 2, expected 3 as conversion.json has it.*--allow-missing"):
        made("master", tmp_path / "whole", tmp_path / "again")
    again = made("master", tmp_path / "whole", tmp_path / "again", allow_missing=True)
    assert again.units == 2
    assert "1 episodes of the master folder are absent." in again.notes


@pytest.mark.parametrize("name", ["coco", "webdataset", "annotations", "master"])
def test_only_robot_episodes_have_a_tier_master(name: str) -> None:
    with pytest.raises(UserError, match=f"format {name}, tier: got 'master'.*master is for lerobot, rlds, hdf5"):
        opener(name, "master")


def test_the_commands_say_what_to_do_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original = Dataset().write(tmp_path / "original")
    whole, again = str(tmp_path / "whole"), tmp_path / "again"
    ending = ["--name", "toy", "--kind", "CE", "--workers", "1"]
    assert main(["data", "convert", "lerobot", str(original), whole, *ending, "--tier", "master"]) == 0
    said = capsys.readouterr().out
    assert f"To make samples of it: pi05 data convert master {whole} NEW_FOLDER" in said
    assert "episodes" in said
    assert "held out" not in said
    assert main(["data", "index", f"{whole}/toy.yaml", "--root", str(tmp_path)]) == 2
    assert "tier: got 'master' (whole episodes)" in capsys.readouterr().err
    assert main(["data", "convert", "master", whole, str(again), *ending, "--stride", "2", "--image-size", "32"]) == 0
    assert "- /source@sources.toy.card: toy" in capsys.readouterr().out
    assert {path.name for path in again.iterdir()} >= {"toy.yaml", "index.json", "norm_stats.json", "lowdim.parquet"}
