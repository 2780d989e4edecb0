"""What a server tells its operator: one JSON object a line."""

from __future__ import annotations

import json
import logging
import time
from typing import TextIO


class Events:
    """Writes events to a stream; every line has `time` (seconds since 1970) and `event`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: str, **facts: object) -> None:
        line = json.dumps({"time": round(time.time(), 3), "event": event} | facts, ensure_ascii=False)
        print(line, file=self._stream, flush=True)

    def logger(self, level: int = logging.WARNING) -> logging.Logger:
        """A logger whose records become events "log"."""
        logger = logging.Logger("server", level)
        logger.addHandler(_Handler(self))
        return logger


class _Handler(logging.Handler):
    def __init__(self, events: Events) -> None:
        super().__init__()
        self._events = events

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._events("log", level=record.levelname, message=record.getMessage(), error=repr(error) if error else "")
