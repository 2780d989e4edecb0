"""A small server for tests that speaks what reading needs of S3, of Google's XML interface and of a web server.

It serves the files below a folder, whole or in ranges, and lists them in pages. `fault` decides, per request, whether
something goes wrong instead.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

PAGE = 3
"""Files per page of a listing: few, so that tests turn pages."""
DATE = "Thu, 26 Nov 2026 12:00:00 GMT"

Fault = Callable[[int, str], str]
"""(number of the request, path) to what goes wrong: "" nothing, an HTTP status, "reset", "short" or "garbled"."""


@dataclass
class ObjectStore:
    """A running server and what was asked of it."""

    folder: Path
    port: int
    fault: Fault = lambda *_: ""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """(method, path, range header) of every request."""

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ranges(self) -> list[str]:
        """The byte ranges of shards that were asked for, in order."""
        return [span for _, path, span in self.asked if span and path.endswith(".tar")]


@contextmanager
def serve(folder: Path, port: int = 0) -> Iterator[ObjectStore]:
    """The server, until the block ends; buckets are the sub-folders of `folder`."""
    server = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
    server.daemon_threads = True
    store = ObjectStore(folder, server.server_address[1])
    server.store = store  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def s3_variables(store: ObjectStore) -> dict[str, str]:
    """What a person sets to use the server as S3."""
    return {
        "AWS_ENDPOINT_URL": store.http,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        store: ObjectStore = self.server.store  # type: ignore[attr-defined]
        address = urlsplit(self.path)
        path, span = unquote(address.path).strip("/"), self.headers.get("Range", "")
        store.asked.append((self.command, path, span))
        fault = store.fault(len(store.asked) - 1, path)
        if fault == "reset":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif fault.isdigit():
            self._answer(int(fault), b'<?xml version="1.0"?>\n<Error><Code>SlowDown</Code></Error>')
        elif query := parse_qs(address.query, keep_blank_values=True):
            self._list(store.folder / path, query)
        else:
            self._file(store.folder / path, span, fault)

    def _file(self, path: Path, span: str, fault: str) -> None:
        if not path.is_file():
            self._answer(404, b"")
            return
        content = path.read_bytes()
        size, head = len(content), {"Last-Modified": DATE, "ETag": f'"{len(content)}"'}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d+)", span):
            start, end = int(asked[1]), min(int(asked[2]), size - 1)
            if start >= size:
                self._answer(416, b"", {"Content-Range": f"bytes */{size}"})
                return
            content = content[start : end + 1]
            head["Content-Range"] = f"bytes {start}-{end}/{size}"
        if fault == "garbled":
            content = bytes([content[0] ^ 1]) + content[1:]
        self._answer(206 if span else 200, content, head, short=fault == "short")

    def _list(self, bucket: Path, query: dict[str, list[str]]) -> None:
        prefix, after = query.get("prefix", [""])[0], query.get("continuation-token", [""])[0]
        files = sorted(str(path.relative_to(bucket)) for path in bucket.rglob("*") if path.is_file())
        names = [name for name in files if name.startswith(prefix) and name > after]
        entries = "".join(
            f"<Contents><Key>{name}</Key><LastModified>2026-11-26T12:00:00.000Z</LastModified><ETag>1</ETag>"
            f"<Size>{(bucket / name).stat().st_size}</Size></Contents>"
            for name in names[:PAGE]
        )
        more = f"<NextContinuationToken>{names[PAGE - 1]}</NextContinuationToken>" if len(names) > PAGE else ""
        truncated = str(len(names) > PAGE).lower()
        body = f"<ListBucketResult><IsTruncated>{truncated}</IsTruncated>{more}{entries}</ListBucketResult>"
        self._answer(200, body.encode(), {"Content-Type": "application/xml"})

    def _answer(self, status: int, body: bytes, head: dict[str, str] | None = None, *, short: bool = False) -> None:
        self.send_response(status)
        for name, value in (head or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: len(body) // 2] if short else body)
        if short:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""
