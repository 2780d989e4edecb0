"""From what a card and a run say of a place to the store that is there."""

from __future__ import annotations

from pathlib import Path

from pi05_train.errors import UserError
from pi05_train.samples.store import Folder, Store

SCHEMES = ("s3", "gs", "https", "http")
PATIENCE_SECONDS = 600.0
"""How long a remote store may fail to answer before that becomes an error."""


def open_store(where: str, *, patience_seconds: float = PATIENCE_SECONDS) -> Store:
    """The store at a path or address; nothing is read yet. Refuses an address of an unknown kind."""
    if "://" not in where:
        return Folder(Path(where))
    scheme = where.partition("://")[0]
    if scheme not in SCHEMES:
        raise UserError(
            "address of a source", got=where, expected=f"a path, or one of {', '.join(SCHEMES)}", do="correct it"
        )
    from pi05_train.samples.remote import RemoteStore

    return RemoteStore(where.rstrip("/"), patience_seconds)


def source_address(root: str, shards: str) -> str:
    """Where a source stands whose card says `shards`: that very path or address, or below the data root."""
    if "://" in shards or Path(shards).is_absolute():
        return shards
    return f"{root.rstrip('/')}/{shards}" if "://" in root else str(Path(root) / shards)
