"""A server in a thread of the test's process or in a process of its own, and a client that speaks its protocol.

Its policy is arithmetic, so that a client knows the answer to each of its questions:
actions[h, d] = state[d] + seed + h / 100.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from pi05_train.policy.execution import Remainder
from pi05_train.policy.hierarchy import RobotState, Turn
from pi05_train.policy.robot import RobotInterface
from pi05_train.policy.server.batcher import Act
from pi05_train.policy.server.events import Events
from pi05_train.policy.server.kept import KeptRequests
from pi05_train.policy.server.limits import Limits
from pi05_train.policy.server.process import serve_until_signal
from pi05_train.policy.server.server import PolicyServer
from pi05_train.policy.server.wire import pack, unpack
from pi05_train.samples.card import SourceCard
from pi05_train.samples.robot_card import RobotCard
from pi05_train.samples.schema import Sample
from tests.policy.robots import robot_of

HORIZON, PATIENCE_SECONDS = 5, 60
ARM = SourceCard(
    name="toy_arm", kind="ME", shards="", cameras=["base_0_rgb"], control_mode="end effector", rate_hz=20.0,
    state_dim=4, action_dim=4,
)  # fmt: skip
Infer = Callable[[Sequence[Sample], Sequence[int], Sequence[Remainder | None]], Sequence[NDArray[np.float32]]]
"""`Policy.actions`."""
HOLD, FAIL, NAN = "hold", "fail", "nan"
"""Prompts that the policy does not answer before it is let, fails at, or answers with no numbers."""

CLIENT = """
import sys
from tests.policy.server.serving import Client, observation, HOLD
from pi05_train.policy.server.wire import pack
client = Client(int(sys.argv[1]))
client.socket.send(pack(observation(prompt=sys.argv[2])))
print("sent", flush=True)
client.received()
print("answered", flush=True)
sys.stdin.read()
"""
"""A client of its own process, to be killed: it sends one observation to a port, with a prompt."""


def expected_actions(state: NDArray[Any], seed: int) -> NDArray[np.float32]:
    """What the policy answers."""
    steps = np.arange(HORIZON, dtype=np.float32)[:, None] / np.float32(100)
    return state.astype(np.float32) + np.float32(seed) + steps


def flat(infer: Infer) -> Act:
    """A policy in a server whose robots have no subtasks."""

    def act(turns: Sequence[Turn]) -> list[tuple[NDArray[np.float32], RobotState]]:
        told = [turn.remainder for turn in turns]
        chunks = infer([turn.sample for turn in turns], [turn.seed for turn in turns], told)
        return [(chunk, turn.state) for chunk, turn in zip(chunks, turns, strict=True)]

    return act


@dataclass
class Arithmetic:
    """The policy; remembers the sizes of its batches and what was left of former chunks."""

    let: threading.Event = field(default_factory=threading.Event)
    holding: threading.Event = field(default_factory=threading.Event)
    batches: list[int] = field(default_factory=list)
    remainders: list[Remainder | None] = field(default_factory=list)

    def __call__(
        self, samples: Sequence[Sample], seeds: Sequence[int], remainders: Sequence[Remainder | None]
    ) -> list[NDArray[np.float32]]:
        self.remainders.extend(remainders)
        self.batches.append(len(samples))
        if any(sample.task == HOLD for sample in samples):
            self.holding.set()
            assert self.let.wait(PATIENCE_SECONDS)
        if any(sample.task == FAIL for sample in samples):
            raise RuntimeError("the policy fails")
        return [
            expected_actions(sample.state, seed) * (np.nan if sample.task == NAN else 1)
            for sample, seed in zip(samples, seeds, strict=True)
            if sample.state is not None
        ]


def observation(state: Sequence[float] = (0.0, 0.0, 0.0, 0.0), seed: int = 0, prompt: str = "go") -> dict[str, Any]:
    """Of the robot of that source."""
    picture = np.full((56, 56, 3), 7, np.uint8)
    numbers = np.array(state, np.float64)
    images = {"base_0_rgb": picture}
    return {"images": images, "joints": numbers[:3], "gripper": numbers[3:], "prompt": prompt, "seed": seed}


class Client:
    """One connection; `metadata` is what the server said first."""

    def __init__(self, port: int, api_key: str | None = None) -> None:
        headers = {"Authorization": f"Api-Key {api_key}"} if api_key else None
        self._open = ExitStack()
        self.socket = self._open.enter_context(
            connect(f"ws://127.0.0.1:{port}", compression=None, max_size=None, additional_headers=headers, proxy=None)
        )
        self.metadata: Any = unpack(self.received())

    def received(self) -> Any:
        return self.socket.recv(timeout=PATIENCE_SECONDS)

    def ask(self, message: object) -> Any:
        """The reply's dictionary, or the sentence of a refusal."""
        self.socket.send(pack(message))
        reply = self.received()
        return reply if isinstance(reply, str) else unpack(reply)

    def closed(self) -> tuple[int, str]:
        """Code and reason of the server's close, waiting for it."""
        with pytest.raises(ConnectionClosed) as end:
            self.received()
        assert end.value.rcvd is not None
        return end.value.rcvd.code, end.value.rcvd.reason

    def close(self) -> None:
        self._open.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Recorded:
    """A stream of events that a test can wait for."""

    def __init__(self) -> None:
        self.all: list[dict[str, Any]] = []
        self._lines: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def write(self, text: str) -> None:
        if text.strip():
            self._lines.put(json.loads(text))

    def flush(self) -> None:
        """Nothing is kept back."""

    def wait(self, event: str) -> dict[str, Any]:
        """The next event of that name."""
        while True:
            line = self._lines.get(timeout=PATIENCE_SECONDS)
            self.all.append(line)
            if line["event"] == event:
                return line


@dataclass(frozen=True)
class Running:
    """A server in a thread."""

    server: PolicyServer
    policy: Arithmetic
    events: Recorded
    port: int
    loop: asyncio.AbstractEventLoop
    stop: asyncio.Event
    thread: threading.Thread

    def ask_to_stop(self) -> None:
        self.loop.call_soon_threadsafe(self.stop.set)

    def tasks(self) -> int:
        """Tasks of the server's loop."""
        counted = asyncio.run_coroutine_threadsafe(_count_tasks(), self.loop)
        return counted.result(PATIENCE_SECONDS)

    def client(self, api_key: str | None = None) -> Client:
        return Client(self.port, api_key)


async def _count_tasks() -> int:
    return len(asyncio.all_tasks()) - 1


@contextmanager
def running(
    limits: Limits | None = None,
    api_key: str | None = None,
    *,
    source: SourceCard = ARM,
    robot: RobotCard | None = None,
    infer: Infer | None = None,
    kept: KeptRequests | None = None,
    about: dict[str, Any] | None = None,
    hierarchical: Act | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Running]:
    """A server that serves until the block is left; `infer` instead of arithmetic, `about` what clients are told.

    `hierarchical`: acts in that mode, instead of a flat server.
    """
    policy, events = Arithmetic(), Recorded()
    interface = RobotInterface(robot or robot_of(source), source)
    server = PolicyServer(
        interface,
        hierarchical or flat(infer or policy),
        Events(events),
        mode="hierarchical" if hierarchical else "flat",
        limits=limits,
        api_key=api_key,
        metadata=about or {"step": 3},
        kept=kept,
        clock=clock,
    )  # type: ignore[arg-type]
    ready: queue.SimpleQueue[Any] = queue.SimpleQueue()

    async def serve() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        await server.run("127.0.0.1", 0, stop, lambda port: ready.put((port, loop, stop)))

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    port, loop, stop = ready.get(timeout=PATIENCE_SECONDS)
    found = Running(server, policy, events, port, loop, stop, thread)
    try:
        yield found
    finally:
        policy.let.set()
        if thread.is_alive():
            found.ask_to_stop()
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()


class Process:
    """A server of its own process, and its events."""

    def __init__(self, port: int = 0) -> None:
        command = [sys.executable, "-m", "tests.policy.server.serving", str(port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.port = int(self.event("serving")["port"])

    def event(self, name: str) -> dict[str, Any]:
        """The next event of that name."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event: dict[str, Any] = json.loads(line)
            if event["event"] == name:
                return event
        raise AssertionError(f"the server ended before {name}")

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class _Told(Arithmetic):
    """Says on the event stream that it holds."""

    def __call__(
        self, samples: Sequence[Sample], seeds: Sequence[int], remainders: Sequence[Remainder | None]
    ) -> list[NDArray[np.float32]]:
        if any(sample.task == HOLD for sample in samples):
            print(json.dumps({"event": "holding", "pid": os.getpid()}), flush=True)
        return super().__call__(samples, seeds, remainders)


def main() -> None:
    """Serve in this process, on the port of the first argument."""
    events = Events(sys.stdout)
    server = PolicyServer(RobotInterface(robot_of(ARM), ARM), flat(_Told()), events)
    serve_until_signal(server, "127.0.0.1", int(sys.argv[1]), events, lambda port: events("serving", port=port))


if __name__ == "__main__":
    main()
