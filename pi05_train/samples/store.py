"""Where a source's files stand: a folder, or an address in an object store (s3, gs) or on a web server.

A store hands out bytes by file name. It knows nothing of samples, indexes or caches.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from pi05_train.errors import UserError

REQUESTS_AT_ONCE = 16
"""To a remote store, per process."""


ReadSpan = Callable[[int, int], bytes]
"""(start, length) to those bytes of a file; fewer where it ends before."""


class Store(Protocol):
    """The files of one source, by name. Every failure is a UserError that names the file."""

    where: str
    """Path or address, without a slash at the end."""
    remote: bool
    """Whether reading goes over the network: slow one by one, quick many at a time, and not after a fork."""

    def sizes(self, names: Collection[str]) -> dict[str, int]:
        """Bytes of each of `names` that is there."""

    def read(self, name: str, start: int, length: int) -> bytes:
        """Those bytes of a file; fewer where it ends before."""

    def opened(self, name: str) -> AbstractContextManager[ReadSpan]:
        """For many reads of one file after each other: `read` of it."""

    def read_whole(self, name: str) -> bytes | None:
        """A small file, or None where there is none of that name."""

    def copy(self, name: str, to: Path) -> bool:
        """Write the file's bytes to `to`, however large it is; False where there is no such file."""


@contextmanager
def local_copy(store: Store, name: str, scratch: Path) -> Iterator[Path]:
    """The file as a path to read from: where it stands, or a copy in the folder `scratch` that is removed afterwards.

    Where there is no such file there is none at the path.
    """
    if not store.remote:
        yield Path(store.where) / name
        return
    scratch.mkdir(parents=True, exist_ok=True)
    path = scratch / name
    try:
        store.copy(name, path)
        yield path
    finally:
        path.unlink(missing_ok=True)


class Folder:
    """A store on a file system. Holds no open files."""

    remote = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.where = str(folder)

    def sizes(self, names: Collection[str]) -> dict[str, int]:
        wanted = frozenset(names)
        try:
            with os.scandir(self.folder) as entries:
                return {entry.name: entry.stat().st_size for entry in entries if entry.name in wanted}
        except FileNotFoundError:
            return {}

    def read(self, name: str, start: int, length: int) -> bytes:
        with self.opened(name) as read:
            return read(start, length)

    @contextmanager
    def opened(self, name: str) -> Iterator[ReadSpan]:
        path = self.folder / name
        try:
            with path.open("rb", buffering=0) as file:
                descriptor = file.fileno()
                yield lambda start, length: os.pread(descriptor, length, start)
        except OSError as error:
            raise UserError(
                f"shard {path}",
                got=f"{type(error).__name__} while reading",
                expected="a readable file",
                do="restore it, then go on",
            ) from error

    def read_whole(self, name: str) -> bytes | None:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def copy(self, name: str, to: Path) -> bool:
        if not (self.folder / name).is_file():
            return False
        shutil.copyfile(self.folder / name, to)
        return True
