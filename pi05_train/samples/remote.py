"""A source in an object store or on a web server, read in byte ranges with patience.

Whatever may pass (time-outs, 5xx, resets, a server that restarts) is tried again, ever more slowly and at random
moments so that ranks do not come back together, until it has lasted too long. Whatever will not pass is an error at
once. Nothing is ever replaced because a store was slow: the order of the data would depend on the weather.
"""

from __future__ import annotations

import os
import random
import re
import sys
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from obstore import exceptions
from obstore.store import GCSStore, HTTPStore, ObjectStore, S3Store

from pi05_train.errors import UserError
from pi05_train.samples.store import REQUESTS_AT_ONCE

T = TypeVar("T")
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.2, 20.0
_STRANGER_SECONDS = 20.0
"""How long an address is waited for that has never answered: it may be misspelt."""
_SILENT_SECONDS = 10.0
"""A trouble that passes within that time is not mentioned."""
_CLIENT = {"timeout": timedelta(seconds=60), "connect_timeout": timedelta(seconds=10)}
_FINAL = (
    exceptions.PermissionDeniedError,
    exceptions.UnauthenticatedError,
    exceptions.NotSupportedError,
    exceptions.InvalidPathError,
    exceptions.UnknownConfigurationKeyError,
)


class RemoteStore:
    """The files below one address. Picklable; every process makes its own connections."""

    remote = True

    def __init__(self, where: str, patience_seconds: float, *, answered: bool = False) -> None:
        """`answered`: whether the address is known to be right, and waiting for it therefore makes sense."""
        self.where = where
        self._patience = patience_seconds
        self._answered = answered

    def __reduce__(self) -> tuple[object, ...]:
        return partial(RemoteStore, answered=self._answered), (self.where, self._patience)

    @cached_property
    def _store(self) -> ObjectStore:
        return _connect(self.where)

    def sizes(self, names: Collection[str]) -> dict[str, int]:
        """Bytes of each of `names` that is there: listed where the store can list, else asked one by one."""
        if isinstance(self._store, HTTPStore):
            with ThreadPoolExecutor(REQUESTS_AT_ONCE) as threads:
                found = zip(names, threads.map(self._size, names), strict=True)
                return {name: size for name, size in found if size is not None}
        wanted = frozenset(names)
        listed = self._patiently("the list of files", lambda: [meta for part in self._store.list() for meta in part])
        return {meta["path"]: int(meta["size"]) for meta in listed or () if meta["path"] in wanted}

    def read(self, name: str, start: int, length: int) -> bytes:
        found = self._patiently(name, lambda: bytes(self._store.get_range(name, start=start, length=length)))
        if found is None:
            raise UserError(
                f"shard {name} in {self.where}",
                got="no such file",
                expected="the shard that was there when the run began",
                do="restore it, then go on",
            )
        return found

    def opened(self, name: str) -> AbstractContextManager[Callable[[int, int], bytes]]:
        return nullcontext(partial(self.read, name))

    def read_whole(self, name: str) -> bytes | None:
        return self._patiently(name, lambda: bytes(self._store.get(name).bytes()))

    def copy(self, name: str, to: Path) -> bool:
        def download() -> bool:
            with to.open("wb") as file:
                for block in self._store.get(name).stream(min_chunk_size=8 << 20):
                    file.write(block)
            return True

        found = self._patiently(name, download) is not None
        if not found:
            to.unlink(missing_ok=True)
        return found

    def _size(self, name: str) -> int | None:
        return self._patiently(name, lambda: int(self._store.head(name)["size"]))

    def _patiently(self, what: str, ask: Callable[[], T]) -> T | None:
        """What `ask` gives; None where there is no such file. UserError for a refusal, or when patience ends."""
        began, pause, told = time.monotonic(), _FIRST_PAUSE_SECONDS, False
        patience = self._patience if self._answered else min(self._patience, _STRANGER_SECONDS)
        while True:
            try:
                found = ask()
                self._answered = True
                return found
            except (exceptions.NotFoundError, FileNotFoundError):
                self._answered = True
                return None
            except _FINAL as error:
                raise self._refusal(what, _said(error)) from error
            except exceptions.BaseError as error:
                waited = time.monotonic() - began
                if waited + pause > patience:
                    raise self._refusal(what, f"no answer in {waited:.0f} s, at last: {_said(error)}") from error
                if not told and waited > _SILENT_SECONDS:
                    told = True
                    left = patience - waited
                    print(f"{self.where}: {_said(error)}; tried again for {left:.0f} s more", file=sys.stderr)
            time.sleep(random.uniform(pause / 2, pause))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _refusal(self, what: str, got: str) -> UserError:
        return UserError(
            f"{what} in {self.where}",
            got=got,
            expected="its bytes",
            do="check the address, the network and the credentials, then go on",
        )


def _connect(where: str) -> ObjectStore:
    """Credentials and endpoints come from the variables that each provider's own tools read."""
    address = urlsplit(where)
    prefix = address.path.strip("/") or None
    if address.scheme == "gs":
        emulator = os.environ.get("STORAGE_EMULATOR_HOST", "")
        gcs: Any = {"base_url": emulator, "skip_signature": True} if emulator else {}
        return GCSStore(address.netloc, prefix=prefix, config=gcs, **_behaviour(emulator))
    if address.scheme == "s3":
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        s3: Any = {"endpoint": endpoint} if endpoint else {}
        if not {"AWS_REGION", "AWS_DEFAULT_REGION"} & os.environ.keys():
            s3["region"] = "us-east-1"
        return S3Store(address.netloc, prefix=prefix, config=s3, **_behaviour(endpoint))
    return HTTPStore.from_url(where, **_behaviour(where))


def _behaviour(address: str) -> dict[str, Any]:
    """No retries of the library beside ours; unencrypted connections only where a person wrote such an address."""
    client = {**_CLIENT, "allow_http": address.startswith("http://")}
    return {"client_options": client, "retry_config": {"max_retries": 0}}


def _said(error: Exception) -> str:
    """What a person can use of the library's message: not its own structures, of a page of XML the code."""
    message = str(error).partition("\n\nDebug source")[0]
    return " ".join(re.sub(r"<\?xml.*?(?:<Code>(\w*)|$).*", r"\1", message, flags=re.DOTALL).split())[:300]
