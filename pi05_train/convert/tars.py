"""Foreign WebDataset tars, read from front to back: neighbouring members with a common key are one record.

The key is a member's name up to the first dot of its last part, the rest is its extension ("a/0001.seg.png": key
"a/0001", extension "seg.png"). Whatever is wrong with a tar becomes a `Dropped`; what stands before it is still good.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from pi05_train.convert.source import Dropped, Options
from pi05_train.errors import UserError

ENDINGS = (".tar", ".tar.gz", ".tgz")
_BLOCK = 512
_END_OF_ARCHIVE = bytes(2 * _BLOCK)
_DAMAGE = (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, ValueError)


@dataclass(frozen=True)
class Record:
    """The members of one key."""

    key: str
    members: dict[str, bytes]
    """Extension in small letters to content."""


def tar_files(path: Path, options: Options) -> list[Path]:
    """The tar at `path`, or all below it in the order of their names; refuses (UserError) none, and files that do not
    begin as a tar unless missing files are allowed: then they are counted when they are read."""
    if path.is_file():
        files = [path]
    else:
        files = sorted(file for file in path.rglob("*") if file.name.endswith(ENDINGS) and file.is_file())
    if not files:
        raise UserError(f"tars in {path}", got="none", expected="*.tar, *.tar.gz or *.tgz", do="correct the path")
    for file in files:
        try:
            with _opened(file) as content, tarfile.open(fileobj=content, mode="r:") as archive:
                archive.next()
        except _DAMAGE as error:
            if not options.allow_missing:
                raise UserError(
                    f"tar {file}",
                    got=str(error) or "a cut file",
                    expected="a whole tar",
                    do="fetch it again, or leave damaged tars out with --allow-missing",
                ) from error
    return files


def tar_records(path: Path, name: str) -> Iterator[Record | Dropped]:
    """The records of a tar in order, `name` standing for the tar itself in what is dropped.

    Dropped are: a cut tar (once, together with the record that the cut goes through), data after its end, a second run
    of members with an earlier key, an extension that comes twice, members without a key.
    """
    done: set[str] = set()
    key, members, twice, end = "", dict[str, bytes](), False, 0
    try:
        with _opened(path) as content, tarfile.open(fileobj=content, mode="r:") as archive:
            for member in archive:
                end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK if member.isreg() else member.offset_data
                if not member.isfile():
                    continue
                of, extension = _split(member.name)
                if of != key or not of:
                    if key:
                        yield _whole(key, members, twice, done)
                    key, members, twice = of, {}, False
                if not of:
                    yield Dropped(f"{name}/{extension}", "member without a key")
                    continue
                file = archive.extractfile(member)
                twice |= extension in members
                members[extension] = file.read() if file else b""
            content.seek(end)
            tail = content.read(len(_END_OF_ARCHIVE))
            after = content.read(1 << 20).strip(b"\0")
    except _DAMAGE:
        yield Dropped(name, "tar cut or damaged")
        return
    if tail != _END_OF_ARCHIVE:  # cut between members, or a damaged header that tarfile takes for the end
        yield Dropped(name, "tar cut or damaged")
        return
    if key:
        yield _whole(key, members, twice, done)
    if after:
        yield Dropped(name, "data after the end of the tar")


def _whole(key: str, members: dict[str, bytes], twice: bool, done: set[str]) -> Record | Dropped:
    if key in done:
        return Dropped(key, "members of a key apart from each other")
    done.add(key)
    return Dropped(key, "two members of one name") if twice else Record(key, members)


def _split(name: str) -> tuple[str, str]:
    """(Key, extension in small letters); the key of "a/.hidden" is ""."""
    name = name.encode("utf-8", "replace").decode().removeprefix("./")
    folder, slash, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    return (f"{folder}{slash}{stem}" if stem else ""), (extension.lower() if stem else last)


def _opened(path: Path) -> IO[bytes]:
    return path.open("rb") if path.name.endswith(".tar") else cast(IO[bytes], gzip.open(path, "rb"))
