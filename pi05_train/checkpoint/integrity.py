"""When a checkpoint counts: written under a temporary name, synced, listed with sizes, then renamed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from pi05_train.errors import UserError

COMPLETE = "complete.json"


def write_atomically(folder: Path, write: Callable[[Path], None]) -> None:
    """Make `folder` hold what `write` puts there, or leave it as it was: no moment shows half of it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.parent / f".saving-{folder.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    write(temporary)
    files = sorted(path for path in temporary.rglob("*") if path.is_file())
    sizes = {path.relative_to(temporary).as_posix(): path.stat().st_size for path in files}
    (temporary / COMPLETE).write_text(json.dumps({"sizes": sizes}, indent=1) + "\n")
    for path in (*files, temporary / COMPLETE, temporary):
        _sync(path)
    if folder.exists():
        delete(folder)
    temporary.rename(folder)
    _sync(folder.parent)


def is_complete(folder: Path) -> bool:
    """Whether the checkpoint was written to its end; damage after that is `verify`'s to find."""
    return (folder / COMPLETE).is_file()


def verify(folder: Path) -> None:
    """Refuse a checkpoint that is absent, half written, or whose files changed size since."""
    if not folder.is_dir():
        raise UserError("checkpoint", got=f"no folder {folder}", expected="a checkpoint", do="check the path and step")
    if not is_complete(folder):
        raise _damaged(folder, f"no {COMPLETE}: the save was cut off")
    try:
        sizes: dict[str, int] = json.loads((folder / COMPLETE).read_text())["sizes"]
    except (ValueError, KeyError) as error:
        raise _damaged(folder, f"an unreadable {COMPLETE}") from error
    for name, size in sizes.items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            raise _damaged(folder, f"{name} " + ("missing" if found is None else f"of {found} bytes instead of {size}"))


def unreadable(folder: Path, error: BaseException) -> UserError:
    """The refusal for a checkpoint whose sizes are right and whose content is not."""
    return _damaged(folder, f"content that does not read ({type(error).__name__})")


def delete(folder: Path) -> None:
    """Remove a checkpoint; it stops counting at once, before its files go."""
    doomed = folder.parent / f".deleting-{folder.name}"
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed)


def _damaged(folder: Path, got: str) -> UserError:
    return UserError(
        f"checkpoint {folder}", got=got, expected="a whole checkpoint", do="delete this folder to use the one before it"
    )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
