from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pi05_train.data.sources.index import Index, build_index
from pi05_train.data.sources.lowdim import read_blocks, read_heads
from pi05_train.errors import UserError
from pi05_train.samples.address import open_store
from pi05_train.samples.schema import Sample
from pi05_train.samples.shards import parse_head, sample_members, write_shards
from tests.samples.object_store import serve
from tests.synthetic import CARDS, synthetic_samples

SAMPLES = synthetic_samples(CARDS["toy_arm"], episodes=4)


def check(folder: Path, samples: list[Sample], rows: np.ndarray) -> int:
    """Every row once with its sample's numbers; how many blocks they came in."""
    seen: list[int] = []
    blocks = list(read_blocks(Index.open(folder), rows))
    for block in blocks:
        for place, row in enumerate(block.rows.tolist()):
            arrays = {name: array[place] for name, array in block.arrays.items()}
            for name in ("state", "actions", "action_valid"):
                np.testing.assert_array_equal(arrays.get(name), getattr(samples[row], name))
            seen.append(row)
    assert sorted(seen) == [row for row in rows.tolist() if samples[row].state is not None]
    return len(blocks)


def test_numbers_come_in_blocks_per_shard(tmp_path: Path) -> None:
    write_shards(tmp_path, SAMPLES, samples_per_shard=8)
    build_index(tmp_path)
    assert check(tmp_path, SAMPLES, np.arange(len(SAMPLES))) == 3
    assert check(tmp_path, SAMPLES, np.array([1, 2, 17])) == 2


def test_long_texts_and_numbers_and_samples_without_any_are_read_too(tmp_path: Path) -> None:
    long = replace(SAMPLES[0], key="long", task="fold " * 10_000)
    steps = 5000
    large = replace(
        SAMPLES[1], key="large", actions=np.ones((steps, 4), np.float32), action_valid=np.ones(steps, np.bool_)
    )
    bare = replace(SAMPLES[2], key="bare", state=None, actions=None, action_valid=None)
    state = replace(SAMPLES[3], key="state", actions=None, action_valid=None)
    samples = [large, long, bare, state, *SAMPLES[4:6], replace(large, key="again")]
    write_shards(tmp_path, samples)
    build_index(tmp_path)
    check(tmp_path, samples, np.arange(len(samples)))


def test_heads_are_the_samples_without_their_pictures(tmp_path: Path) -> None:
    long = replace(SAMPLES[0], key="long", task="fold " * 10_000)
    bare = replace(SAMPLES[2], key="bare", state=None, actions=None, action_valid=None)
    samples = [long, bare, *SAMPLES[3:12]]
    write_shards(tmp_path, samples, samples_per_shard=4)
    build_index(tmp_path)
    index = Index.open(tmp_path)
    heads = list(read_heads(index.store, index.shards, index.records))
    assert len(heads) == len(samples)
    for head, sample in zip(heads, samples, strict=True):
        assert not isinstance(head, UserError)
        parsed = parse_head(*head)
        assert parsed.images == dict.fromkeys(sample.images, b"")
        assert sample_members(replace(parsed, images=sample.images)) == sample_members(sample)
    with pytest.raises(UserError, match=r"lowdim\.npz: got 0 bytes, expected the arrays"):
        parse_head(sample_members(SAMPLES[3])["json"], b"")


def test_a_head_that_cannot_be_taken_apart_is_complained_about_and_the_others_are_read(tmp_path: Path) -> None:
    write_shards(tmp_path, SAMPLES)
    build_index(tmp_path)
    index = Index.open(tmp_path)
    content = bytearray((tmp_path / "shard-000000.tar").read_bytes())
    content[int(index.records["offset"][5]) + 124] = ord("x")  # a digit of the first member's size
    (tmp_path / "shard-000000.tar").write_bytes(content)
    heads = list(read_heads(index.store, index.shards, index.records))
    assert [row for row, head in enumerate(heads) if isinstance(head, UserError)] == [5]


def test_heads_come_from_a_server_as_from_a_folder(tmp_path: Path) -> None:
    write_shards(tmp_path / "source", SAMPLES, samples_per_shard=8)
    build_index(tmp_path / "source")
    index = Index.open(tmp_path / "source")
    with serve(tmp_path) as server:
        store = open_store(f"{server.http}/source", patience_seconds=5)
        remote = list(read_heads(store, index.shards, index.records))
        server.fault = lambda *_: "503"
        store = open_store(f"{server.http}/source", patience_seconds=0.2)
        with pytest.raises(UserError, match="shard-000000"):  # and not complaints about every sample
            list(read_heads(store, index.shards, index.records))
    assert remote == list(read_heads(index.store, index.shards, index.records))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives_that_others_wrote_are_read_too(tmp_path: Path, save: object) -> None:
    with tarfile.open(tmp_path / "shard-000000.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for sample in SAMPLES[:3]:
            content = io.BytesIO()
            save(content, state=sample.state, actions=sample.actions, action_valid=sample.action_valid)  # type: ignore[operator]
            for extension, member in (sample_members(sample) | {"lowdim.npz": content.getvalue()}).items():
                entry = tarfile.TarInfo(f"{sample.key}.{extension}")
                entry.size = len(member)
                archive.addfile(entry, io.BytesIO(member))
    build_index(tmp_path)
    check(tmp_path, SAMPLES, np.arange(3))


def test_a_flipped_byte_in_the_numbers_is_refused_and_one_in_a_picture_is_not_read(tmp_path: Path) -> None:
    (path,) = write_shards(tmp_path, SAMPLES)
    build_index(tmp_path)
    rows, whole = np.arange(len(SAMPLES)), path.read_bytes()
    with tarfile.open(path) as archive:
        picture, numbers = (
            next(m for m in archive if m.name.endswith(end)) for end in ("base_0_rgb.jpg", "lowdim.npz")
        )
    damaged = bytearray(whole)
    damaged[picture.offset_data + 10] ^= 1
    path.write_bytes(damaged)
    check(tmp_path, SAMPLES, rows)
    actions = whole.index(SAMPLES[5].actions.tobytes(), numbers.offset_data)  # type: ignore[union-attr]
    damaged[actions + 3] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"shard-000000\.tar: got numbers with another checksum.*pi05 data verify"):
        list(read_blocks(Index.open(tmp_path), rows))
