"""What others do to a server: malformed frames, clients and servers that are killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psutil
import pytest
from websockets.exceptions import ConnectionClosed

from pi05_train.policy.server.limits import Limits
from pi05_train.policy.server.wire import pack
from tests.policy.server.malformed import malformed
from tests.policy.server.serving import (
    CLIENT,
    HOLD,
    PATIENCE_SECONDS,
    Client,
    Process,
    Running,
    expected_actions,
    observation,
    running,
)

FRAMES = 1000


def check(reply: Any, state: list[float], seed: int) -> None:
    np.testing.assert_array_equal(reply["actions"], expected_actions(np.array(state), seed))


def test_a_thousand_malformed_frames_leave_it_serving() -> None:
    limits = Limits(requests_per_second=1e6)
    with running(limits) as server, server.client() as good:
        refused = answered = 0
        with server.client() as bad:
            for frame in malformed(observation(), FRAMES, seed=1):
                bad.socket.send(frame)
                reply = bad.received()
                refused += isinstance(reply, str)
                answered += isinstance(reply, bytes)
                assert not isinstance(reply, str) or reply.startswith(("frame: got", "observation")), reply
            check(bad.ask(observation([1, 2, 3, 4], seed=5)), [1, 2, 3, 4], 5)
        check(good.ask(observation([4, 3, 2, 1], seed=6)), [4, 3, 2, 1], 6)
    assert refused + answered == FRAMES
    assert refused > 0.9 * FRAMES


def test_what_is_no_websocket_leaves_it_serving() -> None:
    with running() as server:
        for said in (b"", b"\0" * 5000, b"GET / HTTP/1.1\r\n\r\n", b"POST /healthz HTTP/1.1\r\nHost: a\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw:
                raw.sendall(said)
                raw.shutdown(socket.SHUT_WR)
                while raw.recv(4096):
                    pass
        with server.client() as client:
            check(client.ask(observation(seed=1)), [0, 0, 0, 0], 1)


def test_a_signal_ends_the_process_cleanly() -> None:
    with Process() as server, Client(server.port) as client:
        check(client.ask(observation(seed=1)), [0, 0, 0, 0], 1)
        server.process.send_signal(signal.SIGTERM)
        assert client.closed() == (1001, "the server stops")
        assert server.event("stopping")["signal"] == "SIGTERM"
        assert server.event("stopped")
        assert server.process.wait(60) == 0


def test_after_kill_9_of_the_server_in_the_middle_of_a_request_a_client_connects_again_and_goes_on() -> None:
    with Process() as first, ThreadPoolExecutor(1) as threads, Client(first.port) as client:
        asked = threads.submit(client.ask, observation(prompt=HOLD))
        first.event("holding")
        first.process.kill()
        with pytest.raises(ConnectionClosed):
            asked.result(60)
        port = first.port
        with Process(port) as second, Client(second.port) as again:
            assert second.port == port
            check(again.ask(observation([1, 2, 3, 4], seed=5)), [1, 2, 3, 4], 5)


def held_by(server: Running) -> tuple[int, int, int]:
    """Tasks, connections and files."""
    return server.tasks(), len(psutil.Process().net_connections()), len(os.listdir("/proc/self/fd"))


def test_kill_9_of_clients_leaves_no_connection_task_or_file_behind() -> None:
    with running() as server, server.client() as witness:
        check(witness.ask(observation(seed=1)), [0, 0, 0, 0], 1)
        before = held_by(server)
        for prompt, line in ((HOLD, "sent"), ("go", "answered")):
            with subprocess.Popen(
                [sys.executable, "-c", CLIENT, str(server.port), prompt],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            ) as client:  # fmt: skip
                assert client.stdout is not None
                while client.stdout.readline().strip() != line:
                    assert client.poll() is None
                if prompt == HOLD:
                    assert server.policy.holding.wait(60)
                client.kill()
            assert server.events.wait("disconnected")["code"] == 1006
            server.policy.let.set()
        check(witness.ask(observation(seed=2)), [0, 0, 0, 0], 2)
        patience = time.monotonic() + PATIENCE_SECONDS
        while (after := held_by(server)) != before:  # the loop puts the connections away a moment after their end
            assert time.monotonic() < patience, (before, after)


def test_a_waiting_request_of_a_client_that_left_is_not_computed() -> None:
    with running() as server, ThreadPoolExecutor(1) as threads:
        holder = server.client()
        held = threads.submit(holder.ask, observation(prompt=HOLD))
        assert server.policy.holding.wait(60)
        with server.client() as leaver:
            leaver.socket.send(pack(observation(prompt="never computed")))
            while not server.server._batcher._waiting.qsize():
                assert not held.done()
        server.events.wait("disconnected")
        server.policy.let.set()
        held.result(60)
        check(holder.ask(observation(seed=3)), [0, 0, 0, 0], 3)
        holder.close()
    assert server.policy.batches == [1, 1]
