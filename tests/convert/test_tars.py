"""Tars of others: whole records come out in order, and nothing that is missing or damaged goes unsaid."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.convert.source import Dropped, Options
from pi05_train.convert.tars import Record, tar_files, tar_records
from pi05_train.errors import UserError

OPTIONS = Options("toy", "WD")
GOOD = [("a.jpg", b"A" * 700), ("a.txt", b"of a"), ("b.jpg", b"B" * 700), ("b.seg.PNG", b""), ("sub/a.txt", b"other a")]


def tar_bytes(members: Sequence[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def records_of(path: Path, content: bytes) -> tuple[list[Record], list[tuple[str, str]]]:
    path.write_bytes(content)
    found = list(tar_records(path, path.name))
    return (
        [each for each in found if isinstance(each, Record)],
        [(each.key, each.reason) for each in found if isinstance(each, Dropped)],
    )


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.tgz"])
def test_neighbours_of_a_key_are_a_record(tmp_path: Path, name: str) -> None:
    content = tar_bytes(GOOD)
    records, dropped = records_of(tmp_path / name, content if name == "x.tar" else gzip.compress(content))
    assert [record.key for record in records] == ["a", "b", "sub/a"]
    assert records[0].members == {"jpg": b"A" * 700, "txt": b"of a"}
    assert set(records[1].members) == {"jpg", "seg.png"}
    assert not dropped


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    members = [("a.jpg", b"1"), ("b.jpg", b"2"), ("a.txt", b"3"), ("c.jpg", b"4"), ("c.jpg", b"5"), ("x/.hidden", b"6")]
    records, dropped = records_of(tmp_path / "x.tar", tar_bytes(members))
    assert [record.key for record in records] == ["a", "b"]
    assert dropped == [
        ("a", "members of a key apart from each other"),
        ("c", "two members of one name"),
        ("x.tar/.hidden", "member without a key"),
    ]
    records, dropped = records_of(tmp_path / "y.tar", tar_bytes(GOOD) + tar_bytes(GOOD))
    assert len(records) == 3
    assert dropped == [("y.tar", "data after the end of the tar")]


def test_folders_links_and_long_names(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, kind in (("d", tarfile.DIRTYPE), ("d/l.jpg", tarfile.SYMTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type = kind
            archive.addfile(entry)
        entry = tarfile.TarInfo(f"./d/{'n' * 150}.jpg")
        entry.size = 2
        archive.addfile(entry, io.BytesIO(b"ok"))
    records, dropped = records_of(tmp_path / "x.tar", buffer.getvalue())
    assert [(record.key, record.members) for record in records] == [(f"d/{'n' * 150}", {"jpg": b"ok"})]
    assert not dropped


WHOLE = tar_bytes(GOOD)
END = WHOLE.rstrip(b"\0").__len__() // 512 * 512 + 512


@settings(max_examples=150, deadline=None)
@given(cut=st.integers(0, END + 1023), zipped=st.booleans())
def test_a_cut_anywhere_is_noticed(tmp_path_factory: pytest.TempPathFactory, cut: int, zipped: bool) -> None:
    """Also one between two members; what stands whole before it is kept."""
    path = tmp_path_factory.mktemp("cut") / ("x.tar.gz" if zipped else "x.tar")
    content = WHOLE[:cut] if not zipped else gzip.compress(WHOLE, 0)[: max(cut, 1)]
    records, dropped = records_of(path, content)
    assert dropped == [(path.name, "tar cut or damaged")]
    whole = {"a": {"jpg": b"A" * 700, "txt": b"of a"}, "b": {"jpg": b"B" * 700, "seg.png": b""}}
    assert [record.members for record in records] == [whole[record.key] for record in records]


@pytest.mark.parametrize("member", range(len(GOOD)))
def test_a_damaged_header_is_not_the_end(tmp_path: Path, member: int) -> None:
    content = bytearray(WHOLE)
    with tarfile.open(fileobj=io.BytesIO(WHOLE)) as archive:
        content[archive.getmembers()[member].offset + 3] ^= 1
    _, dropped = records_of(tmp_path / "x.tar", bytes(content))
    assert dropped == [("x.tar", "tar cut or damaged")]


def test_tars_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none"):
        tar_files(tmp_path, OPTIONS)
    (tmp_path / "b.tar").write_bytes(WHOLE)
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.tar.*--allow-missing"):
        tar_files(tmp_path, OPTIONS)
    (tmp_path / "a.tar").write_bytes(b"x" * 2000)
    with pytest.raises(UserError, match=r"a\.tar"):
        tar_files(tmp_path, OPTIONS)
    allowed = tar_files(tmp_path, Options("toy", "WD", allow_missing=True))
    assert [path.name for path in allowed] == ["a.tar", "b.tar"]
    assert [each.reason for each in tar_records(allowed[0], "a.tar") if isinstance(each, Dropped)] == [
        "tar cut or damaged"
    ]
