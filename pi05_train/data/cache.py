"""What can be made again, in one folder of this machine: nothing is lost with it, and nothing in it is believed."""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pi05_train.errors import UserError

_SETTLED_NS = 2 * 10**9
"""A file must have been left alone for that long: file systems tell times in steps, up to two seconds wide."""


class Cache:
    """Small files under names that say what they hold; any number of processes may read and write them at once."""

    def __init__(self, folder: str | Path | None = None) -> None:
        """`data.cache`; None: `$XDG_CACHE_HOME/pi05_train`, or `~/.cache/pi05_train`. It is made when first needed."""
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.folder = home / "pi05_train" if folder is None else Path(folder)

    def write(self, name: str, content: bytes) -> Path:
        """Put a file there at once or not at all; its path.

        Refuses (UserError) a folder that cannot be written to, or has no room.
        """
        path = self.folder / name
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                partial.write_bytes(content)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
        except OSError as error:
            raise self._refusal(name, error) from error
        return path

    def read(self, name: str, sha256: str) -> Path | None:
        """The path of a file with this content; None if it is absent or damaged, so that it is made again."""
        path = self.folder / name
        return path if path.is_file() and _sha256(path) == sha256 else None

    def copied(self, name: str, sha256: str, copy: Callable[[Path], bool], origin: str) -> Path:
        """A large file with this content from elsewhere; `copy` writes it where it is absent or damaged.

        Refuses (UserError) an origin whose content is another one, and a cache that cannot be written to.
        """
        path = self.folder / name
        if path.is_file() and self.sha256(path) == sha256:
            return path
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            got = _sha256(partial) if copy(partial) else "no such file"
            if got != sha256:
                do = "index the source with `pi05 data index` and put it there whole"
                raise UserError(f"{origin}, sha256", got=got, expected=sha256, do=do)
            partial.replace(path)
        except OSError as error:
            raise self._refusal(name, error) from error
        finally:
            partial.unlink(missing_ok=True)
        return path

    def write_facts(self, name: str, facts: dict[str, Any]) -> None:
        """Remember what JSON can hold, with its own checksum."""
        self.write(name, json.dumps({"facts": facts, "sha256": _sha256_of(facts)}, indent=1).encode() + b"\n")

    def read_facts(self, name: str) -> dict[str, Any] | None:
        """What was remembered; None if it is absent or damaged."""
        try:
            content = json.loads((self.folder / name).read_bytes())
            facts: dict[str, Any] = content["facts"]
            return facts if content["sha256"] == _sha256_of(facts) else None
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def _refusal(self, name: str, error: OSError) -> UserError:
        return UserError(
            f"cache {self.folder}",
            got=f"{error.strerror} on writing {name}",
            expected="a folder that can be written to and has room",
            do="set data.cache, or the environment variable XDG_CACHE_HOME, to another folder",
        )

    def sha256(self, path: Path) -> str:
        """sha256 of a large file that stands elsewhere, read once per machine and change.

        A file is taken for unchanged while its path, size, modification time and inode are. One that changed all the
        same, on a failing disk, misleads nobody: every sample's checksum is compared whenever the sample is read.
        """
        name = f"hashes/{hashlib.sha256(os.fsencode(path.absolute())).hexdigest()}.json"
        now = path.stat()
        identity = {
            "path": str(path.absolute()), "size": now.st_size, "mtime_ns": now.st_mtime_ns, "inode": now.st_ino
        }  # fmt: skip
        known = self.read_facts(name)
        if known is not None and known["identity"] == identity:
            return str(known["sha256"])
        digest = _sha256(path)
        if time.time_ns() - now.st_mtime_ns > _SETTLED_NS:
            self.write_facts(name, {"identity": identity, "sha256": digest})
        return digest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256_of(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
