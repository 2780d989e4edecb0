"""How much of a server one client, and all of them together, may take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from pi05_train.errors import UserError


@dataclass(frozen=True)
class Limits:
    """Every limit of a server.

    A client has one request at work, one frame waiting and one arriving, so memory has a bound: `clients` times three
    messages.
    """

    clients: int = 64
    """Open connections; further ones are turned away with HTTP 503."""
    message_megabytes: float = 16.0
    """10^6 bytes of a request; a longer one closes its connection (1009) before it is read."""
    requests_per_second: float = 100.0
    """Of one client, a second's worth at once; more closes its connection (1008)."""
    idle_seconds: float = 3600.0
    """How long a connection may be without a request; then it is closed (1000)."""
    batch_samples: int = 16
    """Most requests that are computed together."""

    def __post_init__(self) -> None:
        for name, least in (("clients", 1), ("batch_samples", 1)):
            self._require(getattr(self, name) >= least, name, f"at least {least}")
        for name in ("message_megabytes", "requests_per_second", "idle_seconds"):
            self._require(0 < getattr(self, name) < math.inf, name, "a positive number")

    def _require(self, good: bool, name: str, expected: str) -> None:
        if not good:
            what = f"--{name.replace('_', '-')}"
            raise UserError(what, got=getattr(self, name), expected=expected, do="correct it")


class Rate:
    """A client's requests against its rate: one second's worth may come at once."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._most, self._clock = per_second, max(per_second, 1.0), clock
        self._left, self._at = self._most, clock()

    def take(self) -> bool:
        """Whether one more request is within the rate; then it is counted."""
        now = self._clock()
        self._left, self._at = min(self._left + (now - self._at) * self._per_second, self._most), now
        if self._left < 1:
            return False
        self._left -= 1
        return True
