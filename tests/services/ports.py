"""Ports for services that tests start."""

from __future__ import annotations

import socket


def free_ports(count: int) -> list[int]:
    """Different ones, that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports
