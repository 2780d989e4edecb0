from __future__ import annotations

import json
import shutil
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pi05_train.data.sources.index import FAILED, HELDOUT, RECORD, Index, build_index, read_keys
from pi05_train.errors import UserError
from pi05_train.samples.shards import write_shards
from tests.synthetic import CARDS, shard_path, synthetic_samples

CARD = CARDS["toy_mobile"]
SAMPLES = synthetic_samples(CARD)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shards(tmp_path / "source", SAMPLES, samples_per_shard=16)
    build_index(tmp_path / "source")
    return tmp_path / "source"


def test_every_row_says_where_its_sample_is_and_what_it_is(folder: Path) -> None:
    index = Index.open(folder)
    assert len(index) == len(SAMPLES)
    assert isinstance(index.records, np.memmap)
    assert RECORD.itemsize == 32
    columns = pq.read_table(folder / "index.parquet").to_pylist()
    for row, sample in enumerate(SAMPLES):
        record = index.records[row]
        content = shard_path(index, row).read_bytes()[int(record["offset"]) :][: int(record["length"])]
        assert zlib.crc32(content) == record["crc32"]
        assert content.startswith(f"{sample.key}.json".encode())
        assert all(jpeg in content for jpeg in sample.images.values())
        assert (record["episode"], record["frame"]) == (sample.episode, sample.frame)
        assert bool(record["flags"] & HELDOUT) == (sample.split == "heldout")
        assert bool(record["flags"] & FAILED) == (not sample.success)
        assert columns[row] == {"key": sample.key, "environment_id": sample.environment_id, "task": sample.task}
    assert read_keys(folder, range(len(SAMPLES))) == [sample.key for sample in SAMPLES]


def test_samples_tile_the_shards(folder: Path) -> None:
    records = Index.open(folder).records
    for shard in np.unique(records["shard"]):
        of_shard = records[records["shard"] == shard]
        ends = of_shard["offset"] + of_shard["length"]
        np.testing.assert_array_equal(of_shard["offset"], [0, *ends[:-1]])


def test_the_fingerprint_follows_the_content_not_the_place(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert Index.open(copy).fingerprint == Index.open(folder).fingerprint
    other = tmp_path / "other"
    write_shards(other, SAMPLES[1:] + SAMPLES[:1], samples_per_shard=16)
    build_index(other)
    assert Index.open(other).fingerprint != Index.open(folder).fingerprint


def test_indexing_again_changes_nothing(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    build_index(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_source_without_index_is_refused_with_the_command_that_makes_it(folder: Path) -> None:
    (folder / "index.json").unlink()
    with pytest.raises(UserError, match=r"pi05 data index"):
        Index.open(folder)


def test_a_missing_shard_is_refused_by_name(folder: Path) -> None:
    (folder / "shard-000001.tar").unlink()
    with pytest.raises(UserError, match=r"shard-000001\.tar.*no such file"):
        Index.open(folder)


def test_a_truncated_shard_is_refused_by_name(folder: Path) -> None:
    path = folder / "shard-000001.tar"
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(UserError, match=r"shard-000001\.tar.*as indexed"):
        Index.open(folder)


def test_an_index_of_another_schema_is_refused(folder: Path) -> None:
    path = folder / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 0}))
    with pytest.raises(UserError, match="schema_version: got 0"):
        Index.open(folder)


@pytest.mark.parametrize("name", ["index.npy", "index.parquet"])
def test_an_edited_or_missing_index_file_is_refused(folder: Path, name: str) -> None:
    path = folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=name):
        Index.open(folder)
    path.unlink()
    with pytest.raises(UserError, match=f"{name}.*no such file"):
        Index.open(folder)


def test_an_empty_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \*\.tar shards"):
        build_index(tmp_path)
    with tarfile.open(tmp_path / "shard-000000.tar", "w"):
        pass
    with pytest.raises(UserError, match="0 samples"):
        build_index(tmp_path)


def cut(folder: Path, size: int, tail: bytes = b"") -> None:
    path = folder / "shard-000000.tar"
    path.write_bytes(path.read_bytes()[:size] + tail)


@pytest.mark.parametrize("boundary", range(1, 9))
def test_a_tar_cut_between_members_is_refused(folder: Path, boundary: int) -> None:
    with tarfile.open(folder / "shard-000000.tar") as archive:
        members = archive.getmembers()
    cut(folder, members[boundary].offset)
    with pytest.raises(UserError, match=r"shard-000000\.tar"):
        build_index(folder)


@pytest.mark.parametrize("boundary", [1, 2, 3, 5, 6, 7])
def test_a_shortened_sample_is_refused_even_in_a_well_closed_tar(folder: Path, boundary: int) -> None:
    with tarfile.open(folder / "shard-000000.tar") as archive:
        members = archive.getmembers()
    cut(folder, members[boundary].offset, tail=bytes(1024))
    with pytest.raises(UserError, match=r"shard-000000\.tar, key and members"):
        build_index(folder)


@pytest.mark.parametrize("size", [0, 100, 512, 700, 6000])
def test_a_tar_cut_inside_a_member_is_refused(folder: Path, size: int) -> None:
    cut(folder, size)
    with pytest.raises(UserError, match=r"shard-000000\.tar"):
        build_index(folder)


def test_a_damaged_member_header_does_not_end_the_shard_in_silence(folder: Path) -> None:
    path = folder / "shard-000000.tar"
    content = bytearray(path.read_bytes())
    second = int(Index.open(folder).records["offset"][1])
    content[second + 150] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(UserError, match="no end-of-archive mark"):
        build_index(folder)


def test_headers_that_the_reader_would_not_understand_are_refused(tmp_path: Path) -> None:
    (source,) = write_shards(tmp_path / "a", SAMPLES[:1])
    (tmp_path / "b").mkdir()
    with tarfile.open(source) as archive, tarfile.open(tmp_path / "b" / "shard-000000.tar", "w") as extended:
        for member in archive:
            member.mtime = 1.5  # type: ignore[assignment]  # a fraction needs an extension header
            extended.addfile(member, archive.extractfile(member))
    with pytest.raises(UserError, match="extension headers"):
        build_index(tmp_path / "b")


def test_interleaved_members_and_repeated_keys_are_refused(tmp_path: Path) -> None:
    (source,) = write_shards(tmp_path / "a", SAMPLES[:2])
    with tarfile.open(source) as archive:
        members = archive.getmembers()
        (tmp_path / "b").mkdir()
        with tarfile.open(tmp_path / "b" / "shard-000000.tar", "w") as mixed:
            for i in (0, 4, 1, 5, 2, 6, 3, 7):
                mixed.addfile(members[i], archive.extractfile(members[i]))
    with pytest.raises(UserError, match="members"):
        build_index(tmp_path / "b")
    shutil.copy(source, tmp_path / "a" / "shard-000001.tar")
    with pytest.raises(UserError, match="a second time"):
        build_index(tmp_path / "a")
