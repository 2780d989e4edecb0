"""Normalisation statistics that lie beside weights, as their files are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pi05_train.checkpoint.storage.orbax import MANIFEST
from pi05_train.checkpoint.storage.place import Place, is_url, local_path
from pi05_train.errors import UserError

FOLDER = "assets"
STATISTICS = "norm_stats.json"


@dataclass(frozen=True)
class Assets:
    """What was found, and why it is nothing where it could not be looked for."""

    files: dict[str, bytes]
    """By path below `assets/`: `<asset_id>/norm_stats.json`, where an asset_id may have slashes."""
    note: str = ""


def find_assets(where: str) -> Assets:
    """Every norm_stats.json below the checkpoint's `assets/`.

    It is looked for in a checkpoint's folder, beside `params` if `where` is that folder, and beside a single file.
    """
    if not is_url(where):
        return Assets(_in_folder(local_path(where)))
    place = Place(where)
    if not place.can_list:
        return Assets({}, f"{where} cannot list folders: to bring statistics along, fetch its {FOLDER}/ yourself")
    if place.read(MANIFEST) is not None:
        place = place.parent()
    assets = place.below(FOLDER)
    try:
        names = assets.names()
    except UserError as error:  # a bucket may hand out what it does not list
        return Assets({}, f"no statistics: {error}")
    return Assets(assets.read_all(name for name in names if name.split("/")[-1] == STATISTICS and _stays_below(name)))


def _stays_below(name: str) -> bool:
    """Whether a path would be written where it says; a bucket's keys may be any text."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def write_assets(folder: Path, files: Mapping[str, bytes]) -> None:
    """Put files, by path below `assets/`, into the checkpoint `folder`."""
    for name, content in files.items():
        path = folder / FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _in_folder(path: Path) -> dict[str, bytes]:
    folder = (path.resolve().parent if path.is_file() or (path / MANIFEST).is_file() else path) / FOLDER
    files = sorted(folder.rglob(STATISTICS))
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}
