"""A policy behind a server, asked the way robots ask: one connection per robot, one observation at a time.

Shape letters: H steps, D the robot's action dims.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, cast

import numpy as np
from websockets.exceptions import InvalidHandshake, InvalidURI, WebSocketException
from websockets.sync.client import ClientConnection, connect

from pi05_train.errors import UserError
from pi05_train.policy.execution import Remainder
from pi05_train.policy.policy import Chunk
from pi05_train.policy.robot import RobotInterface
from pi05_train.policy.server.wire import pack, unpack
from pi05_train.processing.images import decode_jpeg
from pi05_train.samples.robot_card import DELAY, PROMPT, REMAINDER, SEED
from pi05_train.samples.schema import Sample

PATIENCE_SECONDS = 120
"""For an answer; the first one of a server may wait for compilation."""


class RemotePolicy:
    """Chunks from `pi05 serve`, in a sample's physical units."""

    def __init__(self, url: str, robot: RobotInterface, *, api_key: str | None = None) -> None:
        """Refuses (UserError) a server that cannot be reached, lets nobody in, or serves another robot."""
        self._url, self._robot, self._api_key = url, robot, api_key
        self._robots: dict[ClientConnection, ExitStack] = {}
        """What closes each."""
        self.about: dict[str, Any]
        """What the server says of itself."""
        robot_to_ask, self.about = self._connect()
        self.hang_up(robot_to_ask)
        self._check()

    def connect(self) -> ClientConnection:
        """A robot of whom the server knows nothing yet."""
        robot, _ = self._connect()
        return robot

    def hang_up(self, robot: ClientConnection) -> None:
        """The server forgets the robot."""
        self._robots.pop(robot).close()

    def actions(
        self,
        robots: Sequence[ClientConnection],
        samples: Sequence[Sample],
        seeds: Sequence[int],
        remainders: Sequence[Remainder | None],
    ) -> list[Chunk]:
        """A chunk [H, D] per robot and its sample; all are asked for at once, so that the server can batch them."""
        try:
            for robot, sample, seed, rest in zip(robots, samples, seeds, remainders, strict=True):
                robot.send(pack(observation(self._robot, sample, seed, rest)))
            return [self._chunk(robot.recv(timeout=PATIENCE_SECONDS)) for robot in robots]
        except (WebSocketException, TimeoutError, OSError) as error:
            raise self._lost(error) from error

    def close(self) -> None:
        """Hang up for all."""
        for robot in list(self._robots):
            self.hang_up(robot)

    def __enter__(self) -> RemotePolicy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _connect(self) -> tuple[ClientConnection, dict[str, Any]]:
        """A connection, and what the server says first."""
        headers = {"Authorization": f"Api-Key {self._api_key}"} if self._api_key else None
        try:
            opened = ExitStack()
            robot = opened.enter_context(
                connect(self._url, compression=None, max_size=None, additional_headers=headers, proxy=None)
            )
            self._robots[robot] = opened
            return robot, cast(dict[str, Any], unpack(cast(bytes, robot.recv(timeout=PATIENCE_SECONDS))))
        except InvalidURI as error:
            raise UserError("server", got=repr(self._url), expected="ws://host:port", do="correct it") from error
        except InvalidHandshake as error:
            raise self._refused(error) from error
        except (WebSocketException, TimeoutError, OSError) as error:
            raise self._lost(error) from error

    def _check(self) -> None:
        expected = self._robot.description()
        for name, own in expected.items():
            if (theirs := self.about.get(name)) != own:
                raise UserError(
                    f"server {self._url}, {name}", got=repr(theirs), expected=repr(own), do="serve this robot's card"
                )

    def _chunk(self, reply: str | bytes) -> Chunk:
        if isinstance(reply, str):
            raise UserError(f"server {self._url}", got=f"the answer '{reply}'", expected="actions", do="see its log")
        commands_HD = cast(dict[str, Chunk], unpack(reply))["actions"].copy()
        start = 0
        for part in self._robot.robot.actions:
            if (rule := part.gripper) is not None:
                dims = slice(start, start + part.dims)
                commands_HD[:, dims] = (commands_HD[:, dims] - rule.open) / (rule.closed - rule.open)
            start += part.dims
        return commands_HD

    def _refused(self, error: InvalidHandshake) -> UserError:
        return UserError(
            f"server {self._url}",
            got=f"'{error}'",
            expected="to be let in",
            do="look at its --clients and --api-key-file",
        )

    def _lost(self, error: Exception) -> UserError:
        return UserError(
            f"server {self._url}",
            got=f"'{' '.join(str(error).split()) or type(error).__name__}'",
            expected="a `pi05 serve` that answers",
            do="start it, or correct the address",
        )


def observation(robot: RobotInterface, sample: Sample, seed: int, remainder: Remainder | None = None) -> dict[str, Any]:
    """What the robot sends where it sees and feels what the sample holds: the inverse of `RobotInterface.request`."""
    assert sample.state is not None, sample.key
    values: dict[str, Any] = {PROMPT: sample.task, SEED: seed}
    if remainder is not None:
        values |= {REMAINDER: robot.commands(remainder.actions_RD), DELAY: remainder.delay_steps}
    for key, view in robot.cameras.items():
        if view.camera in sample.images:
            values[key] = decode_jpeg(sample.images[view.camera]).permute(1, 2, 0).numpy()
    pieces: dict[str, list[Chunk]] = {}
    start = 0
    for part in robot.robot.state:
        numbers, rule = sample.state[start : start + part.dims], part.gripper
        if rule is not None:
            numbers = numbers * np.float32(rule.closed - rule.open) + np.float32(rule.open)
        pieces.setdefault(part.key, []).append(numbers)
        start += part.dims
    return values | {key: np.concatenate(parts) for key, parts in pieces.items()}
