"""When a checkpoint counts: written under a temporary name, synced, listed with sizes, then renamed."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import google_crc32c

from pi05_train.checkpoint.ranks import Ranks
from pi05_train.errors import UserError

COMPLETE = "complete.json"
CHECKSUMS = "crc32c.json"
NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.ENOTDIR, errno.EEXIST)
"""What the system says of a disk that is full or not ours to write on, and of a folder that is a file."""
_CHUNK = 2**20


def write_atomically(
    folder: Path, write: Callable[[Path], None], *, needed_bytes: int = 0, listed: bool = True
) -> None:
    """Make `folder` hold what `write` puts there, or leave it as it was: no moment shows half of it.

    `needed_bytes` must be free before anything is written. `listed=False` writes no list of sizes: for folders that
    belong to another program. A failure, an interruption included, leaves nothing behind.
    """
    temporary = _temporary(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    check_space(folder, needed_bytes)
    with a_disk_for(folder):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            write(temporary)
            _settle(temporary, listed=listed)
            _give_name(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _sync(folder.parent)


def write_together(folder: Path, write: Callable[[Path], list[Path]], ranks: Ranks, *, needed_bytes: int = 0) -> None:
    """`write_atomically` where every rank puts its part into the one folder; none returns before it has its name.

    `write` returns the files it wrote, whose checksums are kept. A rank that fails leaves the others waiting: whoever
    started them ends them.
    """

    def write_all(temporary: Path) -> None:
        ranks.barrier()  # the folder is there
        own = {path.name: checksum(path) for path in write(temporary)}
        parts = ranks.gather(own)  # every part is there
        if ranks.rank == 0:
            whole = {name: value for part in parts for name, value in part.items()}
            (temporary / CHECKSUMS).write_text(json.dumps(whole, indent=1) + "\n")

    if ranks.rank == 0:
        write_atomically(folder, write_all, needed_bytes=needed_bytes)
    else:
        write_all(_temporary(folder))
    ranks.barrier()


def _temporary(folder: Path) -> Path:
    return folder.parent / f".saving-{folder.name}"


def _settle(folder: Path, *, listed: bool) -> None:
    """Everything in `folder` on the disk itself, and its sizes written down."""
    paths = sorted(folder.rglob("*"))
    files = [path for path in paths if path.is_file()]
    if listed:
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
        (folder / COMPLETE).write_text(json.dumps({"sizes": sizes}, indent=1) + "\n")
        paths.append(folder / COMPLETE)
    for path in (*paths, folder):
        _sync(path)


def _give_name(temporary: Path, folder: Path) -> None:
    """Rename, in place of an older folder if there is one; that one is gone only when the new one is there."""
    older = _put_aside(folder) if folder.exists() else None
    try:
        temporary.rename(folder)
    except BaseException:
        if older is not None:
            older.rename(folder)
        raise
    if older is not None:
        shutil.rmtree(older)


def check_space(folder: Path, needed_bytes: int) -> None:
    """Refuse to begin writing `folder` where less than `needed_bytes` is free."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(there).free
    if free < needed_bytes:
        raise UserError(
            f"writing {folder}",
            got=f"{free / 1e9:.1f} GB free",
            expected=f"at least {needed_bytes / 1e9:.1f} GB",
            do="make room or choose another disk",
        )


@contextmanager
def a_disk_for(folder: Path) -> Iterator[None]:
    """Refuses in one sentence, while entered, a disk that is full or may not be written on."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_PLACE:
            raise no_space(folder, os.strerror(error.errno)) from error
        raise


def no_space(folder: Path, got: str) -> UserError:
    """The refusal for a disk that filled up while `folder` was written."""
    return UserError(
        f"writing {folder}",
        got=got,
        expected="a disk that takes it",
        do="make room or choose another disk; nothing half-written is left",
    )


def is_complete(folder: Path) -> bool:
    """Whether the checkpoint was written to its end; damage after that is `verify`'s to find."""
    return (folder / COMPLETE).is_file()


def verify(folder: Path, *, do: str | None = None) -> None:
    """Refuse a checkpoint that is absent, half written, or whose files changed size since; `do` is the cure, which
    names an older checkpoint where none is given.
    """
    if not folder.is_dir():
        raise UserError("checkpoint", got=f"no folder {folder}", expected="a checkpoint", do="check the path and step")
    got = _wrong_in(folder)
    if got is not None:
        raise _damaged(folder, got, do)


def verify_content(folder: Path, ranks: Ranks) -> None:
    """Refuse a checkpoint of which a file has other bytes than were written; every rank reads a part of the files."""
    try:
        sums: dict[str, int] = json.loads((folder / CHECKSUMS).read_text())
    except (FileNotFoundError, ValueError) as error:
        raise _damaged(folder, f"no readable {CHECKSUMS}") from error
    own = sorted(sums)[ranks.rank :: ranks.size]
    bad = [name for names in ranks.gather([n for n in own if checksum(folder / n) != sums[n]]) for name in names]
    if bad:
        raise _damaged(folder, f"{', '.join(bad)} with other bytes than were written")


def checksum(path: Path) -> int:
    """The CRC-32C of a file."""
    found = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found = int(google_crc32c.extend(found, chunk))
    return found


def unreadable(folder: Path, error: BaseException) -> UserError:
    """The refusal for a checkpoint whose sizes are right and whose content is not."""
    return _damaged(folder, f"content that does not read ({type(error).__name__})")


def _wrong_in(folder: Path) -> str | None:
    """What shows that a checkpoint was cut off or lost something; None: nothing does."""
    if not is_complete(folder):
        return f"no {COMPLETE}: the save was cut off"
    try:
        sizes: dict[str, int] = json.loads((folder / COMPLETE).read_text())["sizes"]
    except (ValueError, KeyError):
        return f"an unreadable {COMPLETE}"
    for name, size in sizes.items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            return f"{name} " + ("missing" if found is None else f"of {found} bytes instead of {size}")
    return None


def remove_leftovers(folder: Path) -> None:
    """Remove what saves and deletions that were cut off have left in `folder`; nobody may be writing there."""
    for pattern in (".saving-*", ".deleting-*"):
        for path in folder.glob(pattern):
            shutil.rmtree(path)


def delete(folder: Path) -> None:
    """Remove a checkpoint; it stops counting at once, before its files go."""
    shutil.rmtree(_put_aside(folder))


def _put_aside(folder: Path) -> Path:
    doomed = folder.parent / f".deleting-{folder.name}"
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    return doomed


def _damaged(folder: Path, got: str, do: str | None = None) -> UserError:
    older = [path for path in sorted(folder.parent.glob("step-*")) if path.name < folder.name and not _wrong_in(path)]
    earlier = f"to go on from {older[-1].name}" if older else "and begin anew: there is no older one"
    return UserError(
        f"checkpoint {folder}", got=got, expected="a whole checkpoint", do=do or f"delete this folder {earlier}"
    )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
