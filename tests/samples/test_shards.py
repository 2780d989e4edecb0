from __future__ import annotations

import gc
import io
import tarfile
import warnings
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image

from pi05_train.errors import UserError
from pi05_train.samples.card import SourceCard
from pi05_train.samples.schema import Sample
from pi05_train.samples.shards import check_sample, parse_sample, sample_members, write_shards
from tests.synthetic import CARDS, synthetic_samples

ARM, WEB = CARDS["toy_arm"], CARDS["toy_web"]


def assert_same(left: Sample, right: Sample) -> None:
    for field in fields(Sample):
        a, b = getattr(left, field.name), getattr(right, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        else:
            assert a == b, field.name


def sample_of(card: SourceCard) -> Sample:
    return synthetic_samples(card, episodes=1, frames=1)[0]


def read_with_webdataset(paths: list[Path], *decoders: str) -> list[dict[str, Any]]:
    """Every record of the shards as the library alone gives them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the library leaves its last file to the collector
        stream = webdataset.WebDataset([str(path) for path in paths], shardshuffle=False)
        records = list(stream.decode(*decoders) if decoders else stream)
        del stream
        gc.collect()
    return records


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
def test_plain_webdataset_reads_every_sample_back_whole(card: SourceCard, tmp_path: Path) -> None:
    samples = synthetic_samples(card, episodes=3, frames=2)
    paths = write_shards(tmp_path, samples, samples_per_shard=4)
    assert [path.name for path in paths] == ["shard-000000.tar", "shard-000001.tar"]
    for raw, sample in zip(read_with_webdataset(paths), samples, strict=True):
        assert raw["__key__"] == sample.key
        assert_same(parse_sample({name: raw[name] for name in raw if not name.startswith("__")}), sample)
        check_sample(sample, card)


def test_webdataset_decodes_the_members_with_its_own_decoders(tmp_path: Path) -> None:
    sample = sample_of(ARM)
    (decoded,) = read_with_webdataset(write_shards(tmp_path, [sample]), "pil")
    assert decoded["json"]["task"] == sample.task
    np.testing.assert_array_equal(decoded["lowdim.npz"]["actions"], sample.actions)
    assert isinstance(decoded["base_0_rgb.jpg"], Image.Image)


def test_members_stand_in_reading_order_without_extension_headers(tmp_path: Path) -> None:
    (path,) = write_shards(tmp_path, [sample_of(CARDS["toy_bimanual"])])
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    assert [member.name.partition(".")[2] for member in members] == [
        "json", "lowdim.npz", "base_0_rgb.jpg", "left_wrist_0_rgb.jpg", "right_wrist_0_rgb.jpg",
    ]  # fmt: skip
    assert members[0].offset == 0
    for before, after in pairwise(members):
        assert after.offset == before.offset_data + -(-before.size // 512) * 512


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write_shards(tmp_path / name, synthetic_samples(ARM, episodes=2))[0] for name in "ab")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
def test_the_bytes_are_those_of_the_librarys_own_writer(card: SourceCard, tmp_path: Path) -> None:
    samples = synthetic_samples(card, episodes=2)
    with webdataset.TarWriter(str(tmp_path / "theirs.tar"), encoder=False, mtime=0) as writer:
        for sample in samples:
            for extension, content in sample_members(sample).items():
                writer.write({"__key__": sample.key, extension: content})
    (ours,) = write_shards(tmp_path / "ours", samples)
    assert ours.read_bytes() == (tmp_path / "theirs.tar").read_bytes()


def test_a_failing_converter_leaves_no_shards_behind(tmp_path: Path) -> None:
    bad = replace(sample_of(ARM), key="00000009_000000", actions=np.full((12, 4), np.nan, np.float32))
    with pytest.raises(UserError, match=r"00000009_000000.*NaN or Inf"):
        write_shards(tmp_path, [sample_of(ARM), bad], samples_per_shard=1)
    assert list(tmp_path.iterdir()) == []


def test_old_shards_are_never_mixed_with_new_ones(tmp_path: Path) -> None:
    write_shards(tmp_path, [sample_of(ARM)])
    with pytest.raises(UserError, match="choose an empty folder"):
        write_shards(tmp_path, [sample_of(ARM)])


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "x" * 99])
def test_keys_that_tar_or_webdataset_would_misread_are_refused(key: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="key"):
        write_shards(tmp_path, [replace(sample_of(ARM), key=key)])


def test_a_repeated_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its key twice"):
        write_shards(tmp_path, [sample_of(ARM), sample_of(ARM)], samples_per_shard=1)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"actions": np.full((12, 4), np.inf, np.float32)}, "actions: got NaN or Inf"),
        ({"state": np.full(4, np.nan, np.float32)}, "state: got NaN or Inf"),
        ({"actions": np.zeros((12, 4), np.float64)}, "actions: got float64"),
        ({"actions": np.zeros((0, 4), np.float32)}, r"actions: got float32 \[0, 4\]"),
        ({"action_valid": np.ones(11, bool)}, "equally long"),
        ({"action_valid": np.zeros(12, bool)}, "the first step valid"),
        ({"action_valid": None}, "equally long"),
        ({"images": {}}, "cameras"),
        ({"images": {"base_0_rgb": sample_of(ARM).images["base_0_rgb"][:-40]}}, "no whole JPEG"),
        ({"kind": "XX"}, "kind"),
        ({"split": "test"}, "split"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_by_key(change: dict[str, object], sentence: str) -> None:
    sample = replace(sample_of(ARM), **change)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=sentence) as raised:
        parse_sample(sample_members(sample))
    assert sample.key in str(raised.value)


@pytest.mark.parametrize("gone", ["lowdim.npz", "base_0_rgb.jpg"])
def test_a_sample_without_a_declared_member_is_refused_by_key(gone: str) -> None:
    sample = sample_of(ARM)
    members = sample_members(sample)
    del members[gone]
    with pytest.raises(UserError, match=f"{sample.key}.*members"):
        parse_sample(members)


def test_a_damaged_archive_of_numbers_is_refused_by_key() -> None:
    members = sample_members(sample_of(ARM))
    members["lowdim.npz"] = members["lowdim.npz"][:100]
    with pytest.raises(UserError, match=r"00000000_000000.*lowdim\.npz"):
        parse_sample(members)


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"schema": 99}', b'{"schema": 1, "key": "k"}'])
def test_foreign_json_is_refused(content: bytes) -> None:
    with pytest.raises(UserError, match="json"):
        parse_sample({"json": content})


@pytest.mark.parametrize(
    ("card", "change", "what"),
    [
        (ARM, {"action_dim": 7}, "action_dim: got 4, expected the card's 7"),
        (ARM, {"state_dim": 5}, "state_dim"),
        (ARM, {"kind": "MM"}, "kind"),
        (ARM, {"name": "other"}, "source"),
        (ARM, {"cameras": ["left_wrist_0_rgb"]}, "cameras"),
        (ARM, {"rate_hz": 50.0}, "rate_hz: got 20.0, expected the card's 50.0"),
        (ARM, {"control_mode": "joint"}, "control_mode"),
        (WEB, {"kind": "ME", "action_dim": 4}, "kind"),
    ],
)
def test_a_sample_that_its_card_does_not_describe_is_refused(
    card: SourceCard, change: dict[str, object], what: str
) -> None:
    check_sample(sample_of(card), card)
    with pytest.raises(UserError, match=what):
        check_sample(sample_of(card), replace(card, **change))  # type: ignore[arg-type]


def test_numbers_survive_any_numpy_reader() -> None:
    sample = sample_of(ARM)
    with np.load(io.BytesIO(sample_members(sample)["lowdim.npz"])) as archive:
        assert archive.files == ["state", "actions", "action_valid"]
        np.testing.assert_array_equal(archive["actions"], sample.actions)
