"""Folders and bucket addresses alike: bytes by key, through tensorstore, with an end to every wait."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import tensorstore as ts

from pi05_train.errors import UserError

SECONDS = 25
"""Longest wait for something small: an address that takes longer counts as one that does not answer."""
BLOCK_SECONDS = 300
"""Longest wait for one block of numbers."""
BLOCK_BYTES = 8 << 20
RETRIES = {"max_retries": 5, "initial_delay": "0.5s", "max_delay": "4s"}
"""About 12 seconds in all where the address refuses at once; tensorstore's own 32 retries take many minutes."""
PATIENT_RETRIES = {"max_retries": 12, "initial_delay": "0.5s", "max_delay": "16s"}
"""About two minutes: for an address that has answered before."""
CACHE_BYTES = 64 << 20
"""For the indices of a database; numbers are never cached."""
FAILURES = (ValueError, IndexError, OSError, RuntimeError)
"""What tensorstore raises; an OSError may be that nothing came in time."""


def is_url(where: str) -> bool:
    """Whether `where` is an address rather than a path; `file://` counts as a path."""
    return "://" in where and not where.startswith("file://")


def local_path(where: str) -> Path:
    """The path that `where` names, as it is or as `file://`."""
    return Path(unquote(urlsplit(where).path) if where.startswith("file://") else where).expanduser()


class Place:
    """A folder or address as values by key; every failure is one sentence that names it."""

    def __init__(self, where: str, *, spec: dict[str, Any] | None = None, context: Any = None) -> None:
        self.where = where.rstrip("/")
        self._spec = spec or _spec(where)
        self._opened = time.time()
        self._context = context or ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})
        try:
            self._store = ts.KvStore.open(self._spec, context=self._context).result(timeout=SECONDS)
        except FAILURES as error:
            raise self._refusal("the address", error, SECONDS) from error

    def below(self, name: str) -> Place:
        """The folder `name` in this one."""
        spec = self._spec | {"path": f"{self._spec['path']}{name}/"}
        return Place(f"{self.where}/{name}", spec=spec, context=self._context)

    def parent(self) -> Place:
        """The folder that this one is in."""
        path = str(self._spec["path"]).rstrip("/").rpartition("/")[0]
        spec = self._spec | {"path": f"{path}/" if path else ""}
        return Place(self.where.rpartition("/")[0], spec=spec, context=self._context)

    @property
    def can_list(self) -> bool:
        """Whether `names` works here; addresses of `http` only hand out what is asked for by name."""
        return bool(self._spec["driver"] != "http")

    def database(self) -> Place:
        """The key-value database (OCDBT) whose files lie here."""
        retries = {key: PATIENT_RETRIES for key in self._spec if key.endswith("_request_retries")}
        spec = {"driver": "ocdbt", "base": self._spec | retries, "path": ""}
        return Place(self.where, spec=spec, context=self._context)

    def ask(self, key: str, span: slice | None = None) -> Any:
        """The future value of a key, or those of its bytes, for `wait`."""
        return self._store.read(key, byte_range=span, staleness_bound=self._opened)

    def wait(self, future: Any, what: str, seconds: float | None = None) -> Any:
        """The result of a future of tensorstore; `what` is what a refusal says could not be read."""
        seconds = seconds or SECONDS
        try:
            return future.result(timeout=seconds)
        except FAILURES as error:
            raise self._refusal(what, error, seconds) from error

    def read(self, key: str, what: str = "") -> bytes | None:
        """The value of a key; None where there is no such key."""
        found = self.wait(self.ask(key), what or key)
        return None if found.state == "missing" else bytes(found.value)

    def read_all(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Values of keys that are there, asked for together."""
        asked = {key: self.ask(key) for key in keys}
        return {key: bytes(self.wait(future, key).value) for key, future in asked.items()}

    def blocks(self, key: str, what: str) -> Iterator[bytes]:
        """The value of a key in blocks, the next one fetched while one is worked on; nothing if the key is absent."""
        at, coming = 0, self.ask(key, slice(0, BLOCK_BYTES))
        while (block := self._block(coming, what)) is not None:
            if not block:
                return
            at += len(block)
            coming = self.ask(key, slice(at, at + BLOCK_BYTES))
            yield block
        rest = self.wait(self.ask(key, slice(at, None)), what, BLOCK_SECONDS)  # less than a block
        yield bytes(rest.value)

    def _block(self, future: Any, what: str) -> bytes | None:
        """Its bytes; None if they would reach beyond the value's end."""
        try:
            return bytes(future.result(timeout=BLOCK_SECONDS).value)
        except FAILURES as error:
            if "OUT_OF_RANGE" in str(error):
                return None
            raise self._refusal(what, error, BLOCK_SECONDS) from error

    def names(self) -> list[str]:
        """Every key, in order, where `can_list`."""
        return [key.decode() for key in self.wait(self._store.list(), "the list of names", BLOCK_SECONDS)]

    def json(self) -> dict[str, Any]:
        """How tensorstore opens this place."""
        return self._spec

    def _refusal(self, what: str, error: Exception, seconds: float) -> UserError:
        got = f"no answer in {seconds:.0f} seconds" if isinstance(error, TimeoutError) else _said(error)
        do = "fetch or copy the whole folder again"
        if is_url(self.where):
            do = "check the address, the network and the credentials, or fetch the folder and give its path"
        return UserError(f"{what} in {self.where}", got=got, expected="content that reads", do=do)


def _said(error: Exception) -> str:
    """The cause in tensorstore's message, without what only it understands."""
    first = str(error).splitlines()[0]
    return re.sub(r"ABORTED: |All \d+ retry attempts failed: | \[(curl_code|x-[a-z0-9-]+)='[^']*'\]", "", first)[:300]


def _spec(where: str) -> dict[str, Any]:
    """tensorstore's description of a folder or an address; its path ends in a slash."""
    if not is_url(where):
        return {"driver": "file", "path": f"{local_path(where).resolve()}/"}
    parts = urlsplit(where)
    path = f"{parts.path.strip('/')}/".lstrip("/")
    if parts.scheme == "gs":
        return {"driver": "gcs", "bucket": parts.netloc, "path": path, "gcs_request_retries": RETRIES}
    if parts.scheme == "s3":
        spec = {"driver": "s3", "bucket": parts.netloc, "path": path, "s3_request_retries": RETRIES}
        return spec | _s3_service()
    if parts.scheme in ("http", "https"):
        base = f"{parts.scheme}://{parts.netloc}"
        return {"driver": "http", "base_url": base, "path": f"/{path}", "http_request_retries": RETRIES}
    raise UserError(
        "checkpoint", got=f"the address {where}", expected="a path, or one of gs:// s3:// https:// http:// file://",
        do="fetch it by other means and give its path",
    )  # fmt: skip


def _s3_service() -> dict[str, Any]:
    """Where and as whom, by the usual variables; another service than Amazon's has to be named by them."""
    spec: dict[str, Any] = {}
    if {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= os.environ.keys():
        spec["aws_credentials"] = {"type": "environment"}  # the search for others, the default, complains at length
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        spec["endpoint"] = endpoint
        spec["aws_region"] = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    return spec
