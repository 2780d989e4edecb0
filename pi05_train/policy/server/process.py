"""A server as a process: it serves until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from pi05_train.policy.server.events import Events
from pi05_train.policy.server.server import PolicyServer

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def serve_until_signal(
    server: PolicyServer, host: str, port: int, events: Events, started: Callable[[int], None]
) -> None:
    """Serve until SIGTERM or SIGINT, then answer what is at work and close. A second one interrupts."""
    asyncio.run(_serve(server, host, port, events, started))
    events("stopped")


async def _serve(server: PolicyServer, host: str, port: int, events: Events, started: Callable[[int], None]) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def ask(number: signal.Signals) -> None:
        events("stopping", signal=number.name)
        stop.set()
        for each in STOP_SIGNALS:
            loop.remove_signal_handler(each)

    for each in STOP_SIGNALS:
        loop.add_signal_handler(each, ask, each)
    await server.run(host, port, stop, started)
