"""Files of a downloaded data set, in a folder or a tar, and the JSON tables in them."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pi05_train.errors import UserError


@dataclass(frozen=True)
class Files:
    """The files below a folder, or in an uncompressed tar; names are relative, with slashes."""

    path: Path
    places: Mapping[str, tuple[int, int]]
    """Offset and size in the tar; (0, 0) in a folder."""

    def find(self, *names: str) -> str:
        """The first of these names that is there; "" for none."""
        return next((name for name in names if name in self.places), "")

    def read(self, name: str) -> bytes:
        """A file's bytes."""
        if self.path.is_dir():
            return (self.path / name).read_bytes()
        start, size = self.places[name]
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(size)

    def named(self, ending: str) -> list[str]:
        """The files whose names end so, sorted."""
        return sorted(name for name in self.places if name.endswith(ending))


def open_files(path: Path) -> Files:
    """A folder's files, or a tar's; a folder that holds nothing but one tar is that tar. Refuses what is neither."""
    if path.is_dir():
        names = sorted(_below(path))
        if len(names) == 1 and names[0].endswith(".tar"):
            return open_files(path / names[0])
        return Files(path, dict.fromkeys(names, (0, 0)))
    try:
        with tarfile.open(path, "r:") as archive:
            members = [member for member in archive if member.isfile()]
    except (tarfile.TarError, OSError) as error:
        raise UserError(str(path), got=error, expected="a folder or an uncompressed tar", do="name another") from error
    size = path.stat().st_size
    if members and members[-1].offset_data + members[-1].size > size:
        raise UserError(str(path), got="a cut file", expected="a whole tar", do="fetch it again")
    return Files(path, {_plain(member.name): (member.offset_data, member.size) for member in members})


def _below(folder: Path) -> Iterator[str]:
    for parent, _, names in os.walk(folder, followlinks=True):
        relative = PurePosixPath(Path(parent).relative_to(folder).as_posix())
        yield from ((relative / name).as_posix() for name in names)


def _plain(name: str) -> str:
    return PurePosixPath(name).as_posix()


def read_json(files: Files, name: str, slim: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The content of a JSON file; `slim` replaces every object as soon as it is read, to save memory."""
    try:
        return json.loads(files.read(name), object_hook=slim)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{files.path}, {name}", got=str(error), expected="a whole JSON file", do="fetch it again"
        ) from error


def records(
    content: Any, table: str, fields: Mapping[str, type | tuple[type, ...]], where: str
) -> list[dict[str, Any]]:
    """The list `table` of a JSON object, its entries holding `fields` of these types; refuses (UserError) others."""
    found = content.get(table) if isinstance(content, dict) else None
    if not isinstance(found, list):
        raise UserError(where, got=f"no list {table!r}", expected="one", do="check that the file is of this format")
    for index, entry in enumerate(found):
        for name, types in fields.items():
            value = entry.get(name) if isinstance(entry, dict) else None
            if not isinstance(value, types) or isinstance(value, bool):
                got = f"{type(value).__name__} as {name!r}" if value is not None else f"no {name!r}"
                raise UserError(f"{where}, {table}[{index}]", got=got, expected="a value", do="correct the file")
    return found
