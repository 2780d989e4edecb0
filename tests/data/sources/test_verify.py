from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.data.sources.index import Index, build_index
from pi05_train.data.sources.verify import Problem, repair, verify
from pi05_train.errors import UserError
from pi05_train.samples.shards import write_shards
from tests.synthetic import CARDS, flip, synthetic_samples

CARD = CARDS["toy_mobile"]
SAMPLES = synthetic_samples(CARD, episodes=4, frames=5)
SECOND = "shard-000001.tar"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify") / "source"
    write_shards(folder, SAMPLES, samples_per_shard=8)
    build_index(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "source")


def test_a_whole_source_has_no_problems(whole: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    assert verify(whole, CARD, report=lambda *now: seen.append(now)) == []
    assert seen[-1] == (3, 3, "shard-000002.tar")


def test_worker_processes_find_the_same(folder: Path) -> None:
    flip(folder / SECOND, 3000)
    (folder / "shard-000002.tar").unlink()
    assert verify(folder, CARD, workers=2) == verify(folder, CARD, workers=1)


@settings(max_examples=25, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True))
def test_one_flipped_bit_anywhere_is_one_problem_that_names_its_sample(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, place: float
) -> None:
    folder = shutil.copytree(whole, tmp_path_factory.mktemp("flipped") / "source")
    byte = int(place * (folder / SECOND).stat().st_size)
    flip(folder / SECOND, byte)
    (problem,) = verify(folder, CARD)
    assert problem.file == SECOND
    records = Index.open(whole).records
    holding = [
        SAMPLES[row].key
        for row, record in enumerate(records)
        if record["shard"] == 1 and record["offset"] <= byte < record["offset"] + record["length"]
    ]
    assert problem.key == (holding[0] if holding else "")
    assert "changed" in problem.what


@pytest.mark.parametrize("boundary", range(1, 12))
def test_a_cut_between_members_is_found_and_the_lost_samples_are_counted(folder: Path, boundary: int) -> None:
    with tarfile.open(folder / SECOND) as archive:
        start = archive.getmembers()[boundary].offset
    (folder / SECOND).write_bytes((folder / SECOND).read_bytes()[:start])
    size, lost = verify(folder, CARD)
    assert f"{start} bytes" in size.what
    whole_samples = boundary // 4
    assert lost == Problem(SECOND, SAMPLES[8 + whole_samples].key, f"cut off, and {7 - whole_samples} after it")


def test_missing_empty_and_surplus_shards_are_named(folder: Path) -> None:
    (folder / "shard-000000.tar").rename(folder / "another.tar")
    (folder / SECOND).write_bytes(b"")
    problems = verify(folder, CARD)
    assert [(problem.file, problem.what) for problem in problems] == [
        ("shard-000000.tar", "missing"),
        (SECOND, f"0 bytes, {indexed_bytes(folder)} when it was indexed"),
        ("another.tar", "a shard that the index does not know"),
    ]


def indexed_bytes(folder: Path) -> int:
    return int(json.loads((folder / "index.json").read_text())["shards"][1]["size_bytes"])


def test_what_the_card_forbids_is_named_though_the_bytes_are_whole(whole: Path) -> None:
    problems = verify(whole, CARDS["toy_arm"])
    assert len(problems) == len(SAMPLES)
    assert all("toy_arm" in problem.what for problem in problems)


def test_a_source_without_index_is_refused(folder: Path) -> None:
    (folder / "index.json").write_text("[]")
    with pytest.raises(UserError, match="pi05 data index"):
        verify(folder)
    (folder / "index.json").unlink()
    with pytest.raises(UserError, match=r"index\.json: got no such file"):
        verify(folder)


@pytest.mark.parametrize("name", ["index.npy", "index.parquet"])
def test_a_damaged_index_file_is_written_anew_with_the_same_rows(folder: Path, name: str) -> None:
    before = Index.open(folder).fingerprint
    flip(folder / name, 200)
    problems = verify(folder, CARD)
    assert [str(problem) for problem in problems] == [f"{name}: not the file that was indexed"]
    assert name in repair(folder, problems)
    assert verify(folder, CARD) == []
    assert Index.open(folder).fingerprint == before


def test_damaged_shards_cannot_be_repaired_and_the_sentence_says_what_can_be_done(folder: Path) -> None:
    flip(folder / SECOND, 3000)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match=rf"{SECOND}.*restore those shards"):
        repair(folder, verify(folder, CARD))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert repair(folder, []) == "nothing to repair"
